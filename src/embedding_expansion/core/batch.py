"""A batch as it was checked: which rows are anchors, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.chosen import ChosenPairs
from embedding_expansion.core.grouping import Classes, group, partners, positives, rows_where
from embedding_expansion.core.inputs import (
    LARGEST,
    Labels,
    as_batch,
    as_past,
    as_reference,
    as_rows,
    check_finite,
    validates,
)


@dataclass(frozen=True)
class Batch:
    """Anchors, and the gallery that holds their positives and negatives: the batch itself, or a reference."""

    embeddings: Float[Tensor, "b d"]
    labels: Int[Tensor, " b"]
    anchors: Int[Tensor, " a"]
    past: Bool[Tensor, " b"] | None
    gallery: Float[Tensor, "g d"]
    gallery_labels: Int[Tensor, " g"]
    has_reference: bool
    every_row: bool  # whether all rows are anchors, in their order
    proxies: Literal["anchors", "gallery"] | None = None  # which side are proxies: no points lie between two of them
    chosen: ChosenPairs | None = None  # the pairs that the caller chose; None: all

    @classmethod
    @validates
    def checked(
        cls,
        embeddings: Float[Tensor, "b d"],
        labels: Labels,
        rows: Int[Tensor, " a"] | None,
        past: Bool[Tensor, " b"] | None,
        reference: Float[Tensor, "g d"] | None,
        reference_labels: Labels | None,
    ) -> Batch:
        """The batch, or an error that says what cannot be used."""
        embeddings, labels = as_batch(embeddings, labels)
        batch = cls.of(embeddings, labels, rows, past, reference, reference_labels)
        if embeddings.device.type == "cpu":
            check_finite(embeddings)
            if reference is not None:
                check_finite(batch.gallery, "reference")
        return batch

    @classmethod
    @validates
    def of(
        cls,
        embeddings: Float[Tensor, "b d"],
        labels: Int[Tensor, " b"],
        rows: Int[Tensor, " a"] | None,
        past: Bool[Tensor, " b"] | None,
        reference: Float[Tensor, "g d"] | None,
        reference_labels: Labels | None,
    ) -> Batch:
        """The batch of embeddings and labels that are checked already, or an error."""
        past = as_past(past, embeddings)
        if past is not None and not torch.compiler.is_compiling() and not bool(past.any()):
            past = None
        anchors = as_rows(rows, past, labels.shape[0], labels.device)
        gallery, gallery_labels = as_reference(reference, reference_labels, embeddings, labels)
        every_row = rows is None and past is None
        embeddings = widened(embeddings)
        gallery = embeddings if reference is None else widened(gallery).to(embeddings.dtype)
        return cls(embeddings, labels, anchors, past, gallery, gallery_labels, reference is not None, every_row)

    def against_proxies(self) -> Batch:
        """This batch, whose reference are proxies."""
        return replace(self, proxies="gallery")

    def turned(self) -> Batch:
        """The proxies that were the reference, all of them, as anchors against this batch."""
        everyone = torch.arange(len(self.gallery_labels), device=self.labels.device)
        sides = (self.gallery, self.gallery_labels, everyone, None, self.embeddings, self.labels)
        return Batch(*sides, has_reference=True, every_row=True, proxies="anchors")

    @property
    def is_empty(self) -> bool:
        """Whether there is no anchor."""
        return not torch.compiler.is_compiling() and self.anchors.shape[0] == 0

    @cached_property
    def classes(self) -> Classes:
        """The classes of the gallery."""
        return group(self.gallery_labels)

    @cached_property
    def of_anchor(self) -> Int[Tensor, " a"]:
        """The class of each anchor among those of the gallery; -1 where the gallery has none such."""
        if not self.has_reference:
            return self.classes.of_row[self.anchors]
        return self.classes.find(self.labels[self.anchors])

    def positives(self) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The rows of the gallery that are each anchor's positives, and which slots are used."""
        anchors = None if self.has_reference else self.anchors
        if torch.compiler.is_compiling():
            index, mask = positives(self.gallery_labels, self.labels[self.anchors], anchors)
            return index, mask
        return self.classes.positives(self.of_anchor, anchors)

    def partners(
        self, index: Int[Tensor, "a p"], mask: Bool[Tensor, "a p"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "a p"]]:
        """The positives that are no anchors, once each, and which row of a table belongs to each positive.

        The table's first rows are the anchors', those of the positives that are no anchors follow.
        """
        anchors = None if self.has_reference else self.anchors
        missing, row = partners(index, mask, anchors, self.anchors.shape[0], self.gallery_labels.shape[0])
        return missing, row


def widened(embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Half precision as float32: its rounding is larger than what tells the hardest pairs apart."""
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def without(
    ignored: int, embeddings: Tensor, labels: Tensor, rows: Tensor | None, past: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The batch without the rows of one label; the rows that are anchors are renumbered."""
    keep = labels != ignored
    if rows is not None:
        rows = as_rows(rows, past, labels.shape[0], labels.device)
        rows = (keep.cumsum(0) - 1)[rows[rows_where(keep[rows])]]
    kept = rows_where(keep)
    return embeddings[kept], labels[kept], rows, None if past is None else past[kept]


def prepared(
    embeddings: Float[Tensor, "b d"], normalize: bool, *, check: bool, name: str = "embeddings"
) -> Float[Tensor, "b d"]:
    """The rows as a table takes them: L2-normalised in float32 or better. `check` looks at them first, on a GPU too."""
    look = check or embeddings.device.type == "cpu"
    if not normalize:
        if look:
            check_finite(embeddings, name)
        return embeddings
    # A zero row's gradient is that of its direction times 1/eps, which half precision must be able to hold.
    eps = 1e-3 if embeddings.dtype == torch.float16 else 1e-12
    rows = widened(embeddings)
    norm = torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    if look and not torch.compiler.is_compiling() and norm.shape[0] and not norm.amax().item() <= LARGEST:
        check_finite(embeddings, name)  # norms that are small tell as much, and are fewer
    unit: Tensor = _Normalized.apply(rows, norm, eps)
    return unit


class _Normalized(torch.autograd.Function):
    """Rows over their norm, eps at the least: `functional.normalize` with a shorter way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, norm: Tensor, eps: float) -> Tensor:
        unit: Tensor = rows / norm.clamp(min=eps)
        ctx.save_for_backward(unit, norm, rows)
        ctx.eps = eps
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        unit, norm, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for, and the norm as it was given has none
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        along = (gradient * unit).sum(dim=1, keepdim=True)
        along = torch.where(norm > ctx.eps, along, 0)  # a row that eps has shortened is a multiple of what it was
        return torch.addcmul(gradient, unit, along, value=-1).div_(norm.clamp(min=ctx.eps)), None, None
