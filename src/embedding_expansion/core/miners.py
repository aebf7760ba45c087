"""Miners: which of a table's positives and negatives a loss gets to see, `Pairs -> Pairs`.

They narrow the masks, on plain and on expanded tables alike: `MultiSimilarityLoss(miner=MultiSimilarityMiner())`.
Choices that depend on the triplet, such as semihard negatives, are options of the triplet loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.terms import negatives_of_anchors, squared_distance
from embedding_expansion.errors import InvalidInput

NEAREST, FURTHEST = 0.5, 1.4  # distances at which the weights of `DistanceWeightedMiner` are cut off, as in its paper


@dataclass(frozen=True)
class MultiSimilarityMiner:
    """Keeps negatives harder than the anchor's hardest positive, and positives harder than its hardest negative.

    Both up to epsilon: s_ik > min over P_i of s_ij - epsilon, and s_ij < max over N_i of s_ik + epsilon.

    Args:
        epsilon: similarity by which a pair may be easier.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019, equations 10 and 11. Differs
    from the source: nothing.
    """

    epsilon: float = 0.1

    def __call__(self, pairs: Pairs) -> Pairs:
        """The table with fewer pairs; of an anchor without negatives no positive is left, and the reverse."""
        a = len(pairs.positive)
        furthest = torch.where(pairs.positive_mask, pairs.positive, torch.inf).amin(dim=1, keepdim=True)
        nearest = torch.where(pairs.negative_mask[:a], pairs.negative[:a], -torch.inf).amax(dim=1, keepdim=True)
        return _narrowed(pairs, pairs.positive < nearest + self.epsilon, pairs.negative[:a] > furthest - self.epsilon)


@dataclass(frozen=True)
class EasyPositiveMiner:
    """Keeps each anchor's closest positive only.

    Source: Xuan, Stylianou & Pless, "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, section 3.
    Differs from the source: negatives are left to the loss.
    """

    def __call__(self, pairs: Pairs) -> Pairs:
        """The table with one positive an anchor."""
        return _narrowed(pairs, _first_largest(pairs.positive, pairs.positive_mask), None)


@dataclass(frozen=True)
class BatchHardMiner:
    """Keeps each anchor's furthest positive and closest negative only, of anchors that have both.

    Source: Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5,
    a sum of triplets, of which an image alone in its class and a batch of one class have none.
    Differs from the source: nothing.
    """

    def __call__(self, pairs: Pairs) -> Pairs:
        """The table with one positive and one negative an anchor, or with neither."""
        negative, negative_mask = negatives_of_anchors(pairs)
        both = pairs.positive_mask.any(dim=1, keepdim=True) & negative_mask.any(dim=1, keepdim=True)
        furthest = _first_largest(-pairs.positive, pairs.positive_mask)
        return _narrowed(pairs, furthest & both, _first_largest(negative, negative_mask) & both)


@dataclass(frozen=True)
class DistanceWeightedMiner:
    """Draws as many negatives as an anchor has positives, all distances being equally likely.

    A negative at distance d is drawn with weight 1 / q(d), where q(d) = d^(n-2) (1 - d^2/4)^((n-3)/2) is the density of
    distances between random points of the unit sphere in n dimensions.

    Args:
        dimensions: n, of the embeddings, 3 or more.
        generator: of the draws; torch's own by default.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, equation 4. Differs from the source:
    negatives are drawn without being put back, for the anchor and not for each positive; distances under 0.5 weigh as
    0.5 does, and those above 1.4 are drawn only where nothing else is left, as in its authors' program.
    """

    dimensions: int
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.dimensions, int) or self.dimensions < 3:
            raise InvalidInput(
                f"dimensions is {self.dimensions!r}; pass how many the embeddings have, a whole number of 3 or more"
            )

    def __call__(self, pairs: Pairs) -> Pairs:
        """The table with the negatives that were drawn."""
        a, n = len(pairs.positive), self.dimensions
        square = squared_distance(pairs.negative[:a].detach()).clamp(NEAREST**2, 4 * (1 - 1e-6))
        weight = (2 - n) / 2 * square.log() + (3 - n) / 2 * (1 - square / 4).log()
        weight = torch.where(square > FURTHEST**2, weight - math.log(1e30), weight)
        # The largest of a logarithm plus Gumbel noise is drawn with that weight; the k largest, one after the other.
        uniform = torch.rand(weight.shape, generator=self.generator, dtype=torch.float64, device=weight.device)
        score = torch.where(pairs.negative_mask[:a], weight - (-uniform.log()).log(), -torch.inf)
        rank = score.argsort(dim=1, descending=True).argsort(dim=1)
        return _narrowed(pairs, None, rank < pairs.positive_mask.sum(dim=1, keepdim=True))


def _first_largest(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Bool[Tensor, "a k"]:
    largest = torch.where(mask, values, -torch.inf).argmax(dim=1, keepdim=True)
    return torch.zeros_like(mask).scatter(1, largest, True)


def _narrowed(pairs: Pairs, positives: Bool[Tensor, "a p"] | None, negatives: Bool[Tensor, "a m"] | None) -> Pairs:
    """The table with these of its pairs; rows of negatives that only partners read stay as they are."""
    positive_mask, negative_mask = pairs.positive_mask, pairs.negative_mask
    if positives is not None:
        positive_mask = positive_mask & positives
    if negatives is not None:
        a = len(positive_mask)
        negative_mask = torch.cat([negative_mask[:a] & negatives, negative_mask[a:]])
    return replace(pairs, positive_mask=positive_mask, negative_mask=negative_mask)
