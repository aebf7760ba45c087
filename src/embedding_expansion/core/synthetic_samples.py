"""Interpolation without mining: the synthetic points join the batch as samples. It is a control for expansion."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from jaxtyping import Int
from torch import Tensor

from embedding_expansion.checks import as_limit, as_whole
from embedding_expansion.core.batch import Batch
from embedding_expansion.core.expansion import points_between
from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss, WrappedLoss
from embedding_expansion.core.parameters import Options
from embedding_expansion.errors import InvalidInput, InvalidType


class SyntheticSamples(WrappedLoss):
    """A pair loss on a batch with the synthetic points of `synthesize` as further samples.

    They are anchors, positives and negatives like any other row. Comparing this loss with an `EmbeddingExpansion`
    shows what mining adds to interpolation. The batch grows from b to b + n b (K - 1) / 2 rows for K rows per class.

    Args:
        loss: a pair loss, plain or on proxies.
        n: synthetic points per pair of a class, a whole number.
        normalize_synthetic: L2-normalise the synthetic points.
        max_segments: the largest number of pairs of a class to expand; see `expand`.
        **options: as in `PairLoss`; by default the options of the given loss.

    Raises:
        InvalidInput, InvalidType: if an option or a batch cannot be used, or if a call has an `indices_tuple`.

    Points whose first end is an anchor are anchors, so that ranks and `rows` divide them. There are none between rows
    of a reference.

    Source: the ablation is ours. Ko & Gu, CVPR 2020, section 4.1 for the points.

    Example:
        >>> from embedding_expansion import ContrastiveLoss
        >>> loss = SyntheticSamples(ContrastiveLoss(), n=1)
        >>> round(loss(torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, -1.0]]), [0, 0, 1]).item(), 3)
        0.04
    """

    not_expandable = "its batch holds the synthetic points already"

    @validates
    def __init__(
        self,
        loss: PairLoss,
        n: int = 2,
        normalize_synthetic: bool = True,
        max_segments: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(loss, PairLoss) or isinstance(loss, WrappedLoss):
            raise InvalidType(f"loss is a {type(loss).__name__}; pass one of this package's plain pair losses")
        super().__init__(loss, **options)
        self.n = as_whole(n, "n", least=0)
        self.normalize_synthetic, self.max_segments = normalize_synthetic, as_limit(max_segments, "max_segments")

    @property
    def takes_no_pairs(self) -> str:
        """The reason why the loss does not accept an `indices_tuple`."""
        return "the synthetic points are not among the rows that it numbers"

    def with_anchors(self, batch: Batch) -> Batch:
        """The batch with the points as further rows, and with the anchors of the wrapped loss."""
        if batch.from_memory is not None:
            raise InvalidInput("from_memory is given, but SyntheticSamples takes no memory; use EmbeddingExpansion")
        return self.loss.with_anchors(self._sampled(batch))

    def _sampled(self, batch: Batch) -> Batch:
        rows, ends = points_between(batch.embeddings, batch.labels, self.n, self.normalize_synthetic, self.max_segments)
        b = len(batch.labels)
        embeddings, labels = torch.cat([batch.embeddings, rows]), torch.cat([batch.labels, batch.labels[ends]])
        gallery, of_gallery = (batch.gallery, batch.gallery_labels) if batch.has_reference else (embeddings, labels)
        return replace(
            batch,
            embeddings=embeddings,
            labels=labels,
            anchors=torch.cat([batch.anchors, _of_anchors(ends, batch.anchors, b)]),
            gallery=gallery,
            gallery_labels=of_gallery,
            unit=batch.unit and self.normalize_synthetic,
        )

    def extra_repr(self) -> str:
        """The values of n and normalize_synthetic."""
        return f"n={self.n}, normalize_synthetic={self.normalize_synthetic}"


def _of_anchors(ends: Int[Tensor, " s"], anchors: Int[Tensor, " a"], b: int) -> Int[Tensor, " k"]:
    """The rows of the points whose first end is an anchor; b is the number of rows before the points."""
    is_anchor = torch.zeros(b, dtype=torch.bool, device=ends.device).index_fill_(0, anchors, True)
    return is_anchor[ends].nonzero().flatten() + b
