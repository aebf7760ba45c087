"""Miners select the positives and negatives of a table that a loss reads, `Pairs -> Pairs`.

Pass one to a loss, as in `MultiSimilarityLoss(miner=MultiSimilarityMiner())`. A miner restricts the masks of plain and
expanded tables. Selections that depend on the triplet, such as semihard negatives, are options of the triplet loss.
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

from embedding_expansion.checks import as_whole
from embedding_expansion.core.adapters import adapter_of
from embedding_expansion.core.batch import Batch, Inputs, prepared
from embedding_expansion.core.inputs import Labels, as_batch, as_reference, validates
from embedding_expansion.core.pairs import Pairs, compare_batch
from embedding_expansion.core.terms import negatives_of_anchors, squared_distance
from embedding_expansion.errors import InvalidType

NEAREST, FURTHEST = 0.5, 1.4  # distances that bound the weights of `DistanceWeightedMiner`, as in its paper


def narrowed_by(miner: Any, pairs: Pairs, batch: Batch, columns: Int[Tensor, " g"]) -> Pairs:
    """Restricts the table to the pairs that a miner keeps.

    Args:
        miner: a callable `Pairs -> Pairs`, or a miner of another library.
        pairs: the table, plain or expanded.
        batch: the batch that the table is made from.
        columns: (g,), the column of `negative` for each row of the gallery.

    Raises:
        InvalidType: if the miner returns something other than Pairs.
    """
    adapter = adapter_of(miner)
    if adapter is not None:
        found: Pairs = adapter.mined(miner, pairs, batch, columns)
        return found
    found = miner(pairs)
    if not isinstance(found, Pairs):
        raise InvalidType(
            f"the miner returns a {type(found).__name__}; pass a miner that takes Pairs and returns Pairs"
        )
    return found


class Miner(ABC):
    """The base class of miners. A miner can be called in two ways.

    `miner(pairs)` restricts a table. The losses call it this way.

    `miner(embeddings, labels)` mines a batch (b, d) with labels (b,), as the miners of pytorch-metric-learning do. It
    L2-normalises the embeddings and returns an indices tuple (anchors, positives, anchors, negatives), which the losses
    of both libraries take. With ref_emb (g, d) and ref_labels (g,), positives and negatives are rows of the reference.
    This way a miner does not see synthetic points.
    """

    @abstractmethod
    def narrow(self, pairs: Pairs) -> Pairs:
        """Returns the table with fewer pairs."""

    @overload
    def __call__(self, pairs: Pairs, /) -> Pairs: ...

    @overload
    def __call__(
        self, embeddings: Tensor, labels: Labels, ref_emb: Tensor | None = None, ref_labels: Labels | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...

    @validates
    def __call__(self, embeddings: Any, labels: Any = None, ref_emb: Any = None, ref_labels: Any = None) -> Any:
        """Returns the table with fewer pairs, or the selected pairs of a batch."""
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
                ref_emb, _ = prepared(ref_emb, normalize=True, check=False, name="reference")
            rows, _ = prepared(rows, normalize=True, check=False)
            batch = Batch.of(Inputs(rows, labels, reference=ref_emb, reference_labels=ref_labels))
            pairs = self.narrow(compare_batch(batch, "inner", partners=False))
            positive_anchors, slots = pairs.positive_mask.nonzero(as_tuple=True)
            positives = batch.positives()[0][positive_anchors, slots] if len(slots) else slots
            return positive_anchors, positives, *pairs.negative_mask.nonzero(as_tuple=True)

    def __len__(self) -> int:
        """Raises InvalidType. A loss of pytorch-metric-learning asks for it if it gets a miner instead of pairs."""
        name = type(self).__name__
        raise InvalidType(
            f"indices_tuple is a {name}; pass what it chooses, {name}(...)(embeddings, labels), or use this package's "
            "loss with miner=..."
        )

    def __iter__(self) -> Iterator[Tensor]:
        """Raises InvalidType, as `__len__` does."""
        len(self)
        return iter(())

    def __bool__(self) -> bool:
        """True; without this method Python would ask `__len__`."""
        return True


@dataclass(frozen=True)
class MultiSimilarityMiner(Miner):
    """Keeps negatives harder than the anchor's hardest positive, and positives harder than its hardest negative.

    Both comparisons allow epsilon: s_ik > min over P_i of s_ij - epsilon, and s_ij < max over N_i of s_ik + epsilon.

    Args:
        epsilon: the similarity by which a pair may be easier.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019, equations 10 and 11. Differs
    from the source: nothing.
    """

    epsilon: float = 0.1

    def narrow(self, pairs: Pairs) -> Pairs:
        """Returns the table with fewer pairs. An anchor without negatives loses its positives, and vice versa."""
        a = len(pairs.positive)
        furthest = torch.where(pairs.positive_mask, pairs.positive, torch.inf).amin(dim=1, keepdim=True)
        nearest = torch.where(pairs.negative_mask[:a], pairs.negative[:a], -torch.inf).amax(dim=1, keepdim=True)
        return _narrowed(pairs, pairs.positive < nearest + self.epsilon, pairs.negative[:a] > furthest - self.epsilon)


@dataclass(frozen=True)
class EasyPositiveMiner(Miner):
    """Keeps only the closest positive of each anchor.

    Source: Xuan, Stylianou & Pless, "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, section 3.
    Differs from the source: the miner does not select negatives.
    """

    def narrow(self, pairs: Pairs) -> Pairs:
        """Returns the table with one positive per anchor."""
        return _narrowed(pairs, _first_largest(pairs.positive, pairs.positive_mask), None)


@dataclass(frozen=True)
class BatchHardMiner(Miner):
    """Keeps only the furthest positive and the closest negative of each anchor that has both.

    Source: Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5.
    The equation sums over triplets, so an anchor without a positive or without a negative contributes nothing.
    Differs from the source: nothing.
    """

    def narrow(self, pairs: Pairs) -> Pairs:
        """Returns the table with one positive and one negative per anchor, or with neither."""
        negative, negative_mask = negatives_of_anchors(pairs)
        both = pairs.positive_mask.any(dim=1, keepdim=True) & negative_mask.any(dim=1, keepdim=True)
        furthest = _first_largest(-pairs.positive, pairs.positive_mask)
        return _narrowed(pairs, furthest & both, _first_largest(negative, negative_mask) & both)


@validates
@dataclass(frozen=True)
class DistanceWeightedMiner(Miner):
    """Draws as many negatives as an anchor has positives, such that all distances are equally likely.

    A negative at distance d is drawn with weight 1 / q(d), where q(d) = d^(n-2) (1 - d^2/4)^((n-3)/2) is the density of
    distances between random points of the unit sphere in n dimensions.

    Args:
        dimensions: the dimensions n of the embeddings, 3 or more.
        generator: the random generator of the draws; by default torch's global generator.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, equation 4. Differs from the source:
    negatives are drawn without replacement, for the anchor and not for each positive. As in the authors' program,
    distances below 0.5 have the weight of 0.5, and negatives beyond 1.4 are drawn only if there are no others.
    """

    dimensions: int
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", as_whole(self.dimensions, "dimensions", least=3))

    def narrow(self, pairs: Pairs) -> Pairs:
        """Returns the table with the drawn negatives only."""
        a, n = len(pairs.positive), self.dimensions
        square = squared_distance(pairs.negative[:a].detach()).clamp(NEAREST**2, 4 * (1 - 1e-6))
        weight = (2 - n) / 2 * square.log() + (3 - n) / 2 * (1 - square / 4).log()
        weight = torch.where(square > FURTHEST**2, weight - math.log(1e30), weight)
        # The Gumbel-max trick: the k largest of log weight + Gumbel noise are k draws without replacement.
        uniform = torch.rand(weight.shape, generator=self.generator, dtype=torch.float64, device=weight.device)
        score = torch.where(pairs.negative_mask[:a], weight - (-uniform.log()).log(), -torch.inf)
        rank = score.argsort(dim=1, descending=True).argsort(dim=1)
        return _narrowed(pairs, None, rank < pairs.positive_mask.sum(dim=1, keepdim=True))


def _first_largest(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Bool[Tensor, "a k"]:
    largest = torch.where(mask, values, -torch.inf).argmax(dim=1, keepdim=True)
    return torch.zeros_like(mask).scatter(1, largest, True)


def _narrowed(pairs: Pairs, positives: Bool[Tensor, "a p"] | None, negatives: Bool[Tensor, "a m"] | None) -> Pairs:
    """The table restricted to these pairs; the additional rows of partners are unchanged."""
    positive_mask, negative_mask = pairs.positive_mask, pairs.negative_mask
    if positives is not None:
        positive_mask = positive_mask & positives
    if negatives is not None:
        a = len(positive_mask)
        negative_mask = torch.cat([negative_mask[:a] & negatives, negative_mask[a:]])
    return replace(pairs, positive_mask=positive_mask, negative_mask=negative_mask)
