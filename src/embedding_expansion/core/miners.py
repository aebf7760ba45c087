"""Miners: which of a table's positives and negatives a loss gets to see, `Pairs -> Pairs`.

They narrow the masks, on plain and on expanded tables alike: `MultiSimilarityLoss(miner=MultiSimilarityMiner())`.
Choices that depend on the triplet, such as semihard negatives, are options of the triplet loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.adapters import adapter_of
from embedding_expansion.core.batch import Batch, Inputs, prepared
from embedding_expansion.core.inputs import Labels, as_batch, as_reference, validates
from embedding_expansion.core.pairs import Pairs, compare_batch
from embedding_expansion.core.terms import negatives_of_anchors, squared_distance
from embedding_expansion.errors import InvalidInput, InvalidType

NEAREST, FURTHEST = 0.5, 1.4  # distances at which the weights of `DistanceWeightedMiner` are cut off, as in its paper


def narrowed_by(miner: Any, pairs: Pairs, batch: Batch, columns: Int[Tensor, " g"]) -> Pairs:
    """The table with the pairs that a miner keeps.

    Args:
        miner: `Pairs -> Pairs`, or a miner of another library.
        pairs: the table, plain or expanded.
        batch: what it was made from.
        columns: (g,), the column of the negatives that each row of the gallery belongs to.

    Raises:
        InvalidType: the miner gives something other than Pairs.
    """
    adapter = adapter_of(miner)
    if adapter is not None:
        found: Pairs = adapter.mined(miner, pairs, batch, columns)
        return found
    found = miner(pairs)
    if not isinstance(found, Pairs):
        raise InvalidType(f"the miner gives a {type(found).__name__}; a miner takes Pairs and gives Pairs")
    return found


class Miner(ABC):
    """A miner, called in either of two ways.

    miner(pairs) narrows a table: so the losses call it. miner(embeddings, labels) mines a plain batch (b, d) with
    labels (b,), L2-normalised, as the miners of pytorch-metric-learning do, and gives the indices tuple that its losses
    take, and ours: the pairs (anchors, positives, anchors, negatives). With ref_emb (g, d) and ref_labels (g,)
    positives and negatives are rows of those. It sees no synthetic points then.
    """

    @abstractmethod
    def narrow(self, pairs: Pairs) -> Pairs:
        """The table with fewer pairs."""

    @overload
    def __call__(self, pairs: Pairs, /) -> Pairs: ...

    @overload
    def __call__(
        self, embeddings: Tensor, labels: Labels, ref_emb: Tensor | None = None, ref_labels: Labels | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...

    @validates
    def __call__(self, embeddings: Any, labels: Any = None, ref_emb: Any = None, ref_labels: Any = None) -> Any:
        """The table with fewer pairs, or the pairs of a batch."""
        if isinstance(embeddings, Pairs):
            return self.narrow(embeddings)
        if labels is None:
            raise InvalidType(
                f"{type(self).__name__} is called with a {type(embeddings).__name__} alone; pass Pairs, or embeddings "
                "and labels"
            )
        with torch.no_grad():
            rows, labels = as_batch(embeddings, labels)
            if ref_emb is not None or ref_labels is not None:
                ref_emb, ref_labels = as_reference(ref_emb, ref_labels, rows)
                ref_emb = prepared(ref_emb, normalize=True, check=False, name="reference")
            rows = prepared(rows, normalize=True, check=False)
            batch = Batch.of(Inputs(rows, labels, reference=ref_emb, reference_labels=ref_labels))
            pairs = self.narrow(compare_batch(batch, "inner", partners=False))
            positive_anchors, slots = pairs.positive_mask.nonzero(as_tuple=True)
            positives = batch.positives()[0][positive_anchors, slots] if len(slots) else slots
            return positive_anchors, positives, *pairs.negative_mask.nonzero(as_tuple=True)

    def __len__(self) -> int:
        """It has none: a loss of pytorch-metric-learning that is given a miner in the place of pairs asks for it."""
        name = type(self).__name__
        raise InvalidType(
            f"indices_tuple is a {name}; pass what it chooses, {name}(...)(embeddings, labels), or use this package's "
            "loss with miner=..."
        )

    def __iter__(self) -> Iterator[Tensor]:
        """As `__len__`."""
        len(self)
        return iter(())

    def __bool__(self) -> bool:
        """It is there."""
        return True


@dataclass(frozen=True)
class MultiSimilarityMiner(Miner):
    """Keeps negatives harder than the anchor's hardest positive, and positives harder than its hardest negative.

    Both up to epsilon: s_ik > min over P_i of s_ij - epsilon, and s_ij < max over N_i of s_ik + epsilon.

    Args:
        epsilon: similarity by which a pair may be easier.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019, equations 10 and 11. Differs
    from the source: nothing.
    """

    epsilon: float = 0.1

    def narrow(self, pairs: Pairs) -> Pairs:
        """The table with fewer pairs; of an anchor without negatives no positive is left, and the reverse."""
        a = len(pairs.positive)
        furthest = torch.where(pairs.positive_mask, pairs.positive, torch.inf).amin(dim=1, keepdim=True)
        nearest = torch.where(pairs.negative_mask[:a], pairs.negative[:a], -torch.inf).amax(dim=1, keepdim=True)
        return _narrowed(pairs, pairs.positive < nearest + self.epsilon, pairs.negative[:a] > furthest - self.epsilon)


@dataclass(frozen=True)
class EasyPositiveMiner(Miner):
    """Keeps each anchor's closest positive only.

    Source: Xuan, Stylianou & Pless, "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, section 3.
    Differs from the source: negatives are left to the loss.
    """

    def narrow(self, pairs: Pairs) -> Pairs:
        """The table with one positive an anchor."""
        return _narrowed(pairs, _first_largest(pairs.positive, pairs.positive_mask), None)


@dataclass(frozen=True)
class BatchHardMiner(Miner):
    """Keeps each anchor's furthest positive and closest negative only, of anchors that have both.

    Source: Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5,
    a sum of triplets, of which an image alone in its class and a batch of one class have none.
    Differs from the source: nothing.
    """

    def narrow(self, pairs: Pairs) -> Pairs:
        """The table with one positive and one negative an anchor, or with neither."""
        negative, negative_mask = negatives_of_anchors(pairs)
        both = pairs.positive_mask.any(dim=1, keepdim=True) & negative_mask.any(dim=1, keepdim=True)
        furthest = _first_largest(-pairs.positive, pairs.positive_mask)
        return _narrowed(pairs, furthest & both, _first_largest(negative, negative_mask) & both)


@dataclass(frozen=True)
class DistanceWeightedMiner(Miner):
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

    def narrow(self, pairs: Pairs) -> Pairs:
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
