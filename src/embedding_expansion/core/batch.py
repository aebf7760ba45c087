"""The checked arguments of a loss, the batch that its table is made from, and the classes of the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.chosen import ChosenPairs, IndicesTuple
from embedding_expansion.core.classes import (
    LARGEST_KEPT,
    Classes,
    HostLabels,
    PlainLayout,
    everyone,
    group,
    group_adjacent,
    group_values,
    numbered,
    plain_layout,
)
from embedding_expansion.core.custom_op import CustomOp
from embedding_expansion.core.inputs import (
    LARGEST,
    Labels,
    as_batch,
    as_memory_mask,
    as_numbers,
    as_reference,
    as_rows,
    check_finite,
    validates,
    values_exist,
)


@no_type_check  # custom_op cannot read the signature of a function checked by jaxtyping
def _rows_where(mask: Tensor) -> Tensor:
    """The indices (k,) at which a mask (b,) is true."""
    return mask.nonzero().flatten()


@no_type_check
def _class_of_row(labels: Tensor) -> Tensor:
    """Computes `Classes.of_row` from labels."""
    return torch.unique(labels, return_inverse=True)[1]


@no_type_check
def _positives(of_gallery: Tensor, of_anchor: Tensor, anchors: Tensor | None) -> tuple[Tensor, Tensor]:
    """Computes `Classes.positives` from labels."""
    classes = group(of_gallery)
    found = classes.of_row[anchors] if anchors is not None else classes.find(of_anchor)
    return classes.positives(found, anchors)


@no_type_check
def _partners(index: Tensor, mask: Tensor, anchors: Tensor | None, a: int, g: int) -> tuple[Tensor, Tensor]:
    """Computes `Batch.partners` from the positives of a batch with a anchors and g gallery rows."""
    row_of = index.new_full((g,), -1)
    if anchors is not None:
        row_of[anchors] = torch.arange(a, device=index.device)
    missing = torch.unique(index[mask & (row_of[index] < 0)])
    row_of[missing] = torch.arange(len(missing), device=index.device) + a
    return missing, row_of[index].clamp(min=0)  # an unused slot holds an arbitrary row


@no_type_check
def _fake_rows(mask: Tensor) -> Tensor:
    return mask.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@no_type_check
def _fake_class_of_row(labels: Tensor) -> Tensor:
    return torch.empty_like(labels)


@no_type_check
def _fake_positives(of_gallery: Tensor, of_anchor: Tensor, anchors: Tensor | None) -> tuple[Tensor, Tensor]:
    shape = of_anchor.shape[0], torch.library.get_ctx().new_dynamic_size(min=1)
    return of_anchor.new_empty(shape), of_anchor.new_empty(shape, dtype=torch.bool)


@no_type_check
def _fake_partners(index: Tensor, mask: Tensor, anchors: Tensor | None, a: int, g: int) -> tuple[Tensor, Tensor]:
    return index.new_empty(torch.library.get_ctx().new_dynamic_size()), torch.empty_like(index)


rows_where = CustomOp("rows_where", _rows_where, _fake_rows)
class_of_row = CustomOp("class_of_row", _class_of_row, _fake_class_of_row)
positives = CustomOp("positives", _positives, _fake_positives)
partners = CustomOp("partners", _partners, _fake_partners)


@dataclass(frozen=True)
class Inputs:
    """The checked arguments of a call, on one device, with labels as int64."""

    embeddings: Float[Tensor, "b d"]
    labels: Int[Tensor, " b"]
    rows: Int[Tensor, " a"] | None = None  # the anchors; None: all rows that are not from a memory
    from_memory: Bool[Tensor, " b"] | None = None
    reference: Float[Tensor, "g d"] | None = None
    reference_labels: Int[Tensor, " g"] | None = None
    chosen: ChosenPairs | None = None  # None: all pairs
    on_host: HostLabels | None = None  # `labels` as numbers; of no effect once `labels` is another tensor
    proxies: int | None = None  # the reference: this many proxies of each class 0, 1, ...; 0: some of them are left out
    unit: bool = False  # all rows are known to be of norm 1

    @classmethod
    @validates
    def checked(
        cls,
        embeddings: Float[Tensor, "b d"],
        labels: Labels | None,
        rows: Int[Tensor, " a"] | None = None,
        from_memory: Bool[Tensor, " b"] | None = None,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
        indices_tuple: IndicesTuple | None = None,
    ) -> Inputs:
        """Checks the arguments of a call.

        Raises:
            InvalidInput, InvalidType: if a shape, a type, a label or a row does not fit; the error names the argument.
        """
        given = labels
        embeddings, labels = as_batch(embeddings, labels)
        on_host = (
            None
            if torch.compiler.is_compiling()
            else HostLabels(labels, as_numbers(labels if given is None else given))
        )
        if from_memory is not None:
            from_memory = as_memory_mask(from_memory, embeddings)
        if rows is not None:
            rows = as_rows(rows, from_memory, len(labels), labels.device)
        if reference is not None or reference_labels is not None:
            reference, reference_labels = as_reference(reference, reference_labels, embeddings)
        chosen = None if indices_tuple is None else ChosenPairs.of(indices_tuple, labels.device)
        return cls(embeddings, labels, rows, from_memory, reference, reference_labels, chosen, on_host)

    @property
    def values(self) -> tuple[int, ...] | None:
        """The labels as numbers, where they are known."""
        return None if self.on_host is None else self.on_host.of(self.labels)

    def without(self, label: int) -> Inputs:
        """The arguments without the rows of one label. Row indices are renumbered to match."""
        keep = others = self.labels != label
        rows, chosen, reference, of_reference = self.rows, self.chosen, self.reference, self.reference_labels
        if rows is not None:
            rows = (keep.cumsum(0) - 1)[rows[rows_where(keep[rows])]]
        if reference is not None and of_reference is not None:
            others = of_reference != label
            left = rows_where(others)
            reference, of_reference = reference[left], of_reference[left]
        if chosen is not None:
            chosen = chosen.without(~keep, ~others)
        kept = rows_where(keep)
        from_memory = None if self.from_memory is None else self.from_memory[kept]
        return Inputs(
            self.embeddings[kept],
            self.labels[kept],
            rows,
            from_memory,
            reference,
            of_reference,
            chosen,
            proxies=None if self.proxies is None else 0,
        )

    def prepared(self, normalize: bool, *, check: bool) -> Inputs:
        """The arguments with prepared embeddings and reference; see the function `prepared`."""
        reference, unit = self.reference, True
        if reference is not None:
            reference, unit = prepared(reference, normalize, check=check, name="reference")
        embeddings, units = prepared(self.embeddings, normalize, check=check)
        return replace(self, embeddings=embeddings, reference=reference, unit=units and unit)


@dataclass(frozen=True)
class Batch:
    """Anchors and a gallery, which holds their positives and negatives: the batch itself or a reference."""

    embeddings: Float[Tensor, "b d"]
    labels: Int[Tensor, " b"]
    anchors: Int[Tensor, " a"]
    from_memory: Bool[Tensor, " b"] | None
    gallery: Float[Tensor, "g d"]
    gallery_labels: Int[Tensor, " g"]
    has_reference: bool
    every_row: bool  # all rows are anchors, in order
    proxies: Literal["anchors", "gallery"] | None = None  # the side that holds proxies; no points lie between these
    chosen: ChosenPairs | None = None  # the pairs that the caller chose; None: all pairs
    per_class: int = 0  # how many proxies there are of each class 0, 1, ...; 0: none, or some are left out
    on_host: HostLabels | None = None  # as in `Inputs`
    unit: bool = False  # as in `Inputs`
    heights: tuple[Tensor, Tensor] | None = None  # for balance="sphere": the rows' and the gallery's products with u
    keeps_product: bool = False  # compute `product` once for two tables

    @classmethod
    def prepared(cls, inputs: Inputs, *, normalize: bool, check: bool) -> Batch:
        """Makes a batch of checked arguments, after preparing their rows."""
        return cls.of(inputs.prepared(normalize, check=check))

    @classmethod
    def of(cls, inputs: Inputs) -> Batch:
        """Makes a batch of checked arguments, with half precision converted to float32."""
        embeddings, reference, from_memory = widened(inputs.embeddings), inputs.reference, inputs.from_memory
        if from_memory is not None and not torch.compiler.is_compiling() and not bool(from_memory.any()):
            from_memory = None
        gallery, gallery_labels = embeddings, inputs.labels
        if reference is not None and inputs.reference_labels is not None:
            gallery, gallery_labels = widened(reference).to(embeddings.dtype), inputs.reference_labels
        anchors = inputs.rows
        if anchors is None:
            anchors = everyone(inputs.labels) if from_memory is None else rows_where(~from_memory)
        return cls(
            embeddings,
            inputs.labels,
            anchors,
            from_memory,
            gallery,
            gallery_labels,
            has_reference=reference is not None,
            every_row=inputs.rows is None and from_memory is None,
            proxies=None if inputs.proxies is None else "gallery",
            per_class=inputs.proxies or 0,
            chosen=inputs.chosen,
            on_host=inputs.on_host,
            unit=inputs.unit,
        )

    def swapped(self) -> Batch:
        """The batch whose anchors are all proxies of the reference, and whose gallery is this batch."""
        anchors = everyone(self.gallery_labels)
        sides = (self.gallery, self.gallery_labels, anchors, None, self.embeddings, self.labels)
        known: dict[str, Any] = {"per_class": self.per_class, "on_host": self.on_host, "unit": self.unit}
        return Batch(*sides, has_reference=True, every_row=True, proxies="anchors", **known)

    @property
    def anchor_labels(self) -> Int[Tensor, " a"]:
        """The label of each anchor."""
        return self.labels[self.anchors]

    @property
    def is_empty(self) -> bool:
        """Whether there is no anchor."""
        return not torch.compiler.is_compiling() and self.anchors.shape[0] == 0

    @property
    def detached(self) -> Batch:
        """This batch without gradient. What has been computed of it is not computed again."""
        rows = self.embeddings.detach()
        found = replace(self, embeddings=rows, gallery=self.gallery.detach() if self.has_reference else rows)
        known = {name: value for name, value in self.__dict__.items() if name not in found.__dict__}
        found.__dict__.update(known)
        return found

    @cached_property
    def product(self) -> Float[Tensor, "b g"]:
        """The inner products of the rows with the gallery, without gradient."""
        with torch.no_grad(), torch.autocast(self.embeddings.device.type, enabled=False):
            return self.embeddings @ self.gallery.T

    @property
    def values(self) -> tuple[int, ...] | None:
        """The labels of the gallery as numbers, where they are known."""
        host = self.on_host
        return host.values if host is not None and host.tensor is self.gallery_labels else None

    @property
    def plain(self) -> PlainLayout | None:
        """What follows from known labels where all rows are compared with each other; otherwise None."""
        return None if torch.compiler.is_compiling() else self._plain

    @cached_property
    def _plain(self) -> PlainLayout | None:
        if not self.every_row or self.has_reference or self.values is None:
            return None
        return plain_layout(self.values, self.labels.device)

    @property
    def pattern(self) -> tuple[int, ...] | None:
        """The class of every row, where all rows, of known labels, are compared with each other; otherwise None."""
        values = self.values
        if not self.every_row or self.has_reference or values is None or len(values) ** 2 > LARGEST_KEPT:
            return None
        return numbered(values, sorted(values))

    @classmethod
    def of_pattern(cls, pattern: tuple[int, ...], device: torch.device) -> Batch:
        """A batch without coordinates, for what follows from its pattern alone."""
        labels = torch.tensor(pattern, dtype=torch.int64, device=device)
        rows = torch.empty(len(pattern), 0, device=device)
        known = HostLabels(labels, pattern)
        return cls.of(Inputs(rows, labels, on_host=known))

    @cached_property
    def classes(self) -> Classes:
        """The classes of the gallery."""
        return self._group(self.gallery_labels, proxies="gallery")

    @cached_property
    def own_classes(self) -> Classes:
        """The classes of the batch itself, whose rows are the anchors."""
        return self._group(self.labels, proxies="anchors") if self.has_reference else self.classes

    def _group(self, labels: Int[Tensor, " k"], *, proxies: str) -> Classes:
        """Groups one side, without a wait where it holds proxies, or its labels are known as numbers."""
        values = None if self.on_host is None else self.on_host.of(labels)
        if self.proxies == proxies and self.per_class:
            return group_adjacent(labels, self.per_class)
        return group(labels) if values is None else group_values(values, labels.device)

    @cached_property
    def of_anchor(self) -> Int[Tensor, " a"]:
        """The class of each anchor among the classes of the gallery; -1 if the gallery lacks the class."""
        if not self.has_reference:
            return self.classes.of_row[self.anchors]
        return self.classes.find(self.labels[self.anchors])

    def why_degenerate(self) -> str | None:
        """Why the batch is degenerate, or None if it is not.

        The sentences are constant, so that Python's default filter shows each only once in a long run.
        """
        if len(self.labels) == 0 or (self.from_memory is not None and bool(self.from_memory.all())):
            return "the batch has no anchor, so the loss is 0"
        if self.proxies is not None:
            return None
        if self.has_reference:
            if not bool(torch.isin(self.labels, self.gallery_labels).any()):
                return "no class of the batch is in the reference, so there is no positive pair"
            return None
        classes = len(self.classes.size) if self.values is None else len(set(self.values))
        if classes == len(self.labels):
            return "no class of the batch has two images, so there is no positive pair and nothing is pulled together"
        if classes == 1:
            return "the batch is of one class, so there is no negative pair and nothing is pushed apart"
        return None

    def positives(self) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The gallery rows of each anchor's positives, and a mask of the slots that are used."""
        anchors = None if self.has_reference else self.anchors
        if torch.compiler.is_compiling():
            index, mask = positives(self.gallery_labels, self.labels[self.anchors], anchors)
            return index, mask
        if self.plain is not None:
            return self.plain.positive, self.plain.positive_mask
        if self.proxies == "gallery" and self.per_class:
            labels = self.labels if self.every_row else self.anchor_labels
            slots = torch.arange(self.per_class, device=labels.device)
            index = torch.add(slots, labels[:, None], alpha=self.per_class)
            return index, torch.ones_like(index, dtype=torch.bool)
        of_all = self.proxies == "anchors" or (self.every_row and not self.has_reference)
        return self.classes.positives(self.of_anchor, anchors, of_all=of_all)

    def partners(
        self, index: Int[Tensor, "a p"], mask: Bool[Tensor, "a p"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "a p"]]:
        """The positives that are not anchors, each once, and the row of the table that belongs to each positive.

        The first rows of the table belong to the anchors, the following ones to the positives that are not anchors.
        """
        if self.plain is not None:
            return index.new_empty(0), index
        anchors = None if self.has_reference else self.anchors
        missing, row = partners(index, mask, anchors, self.anchors.shape[0], self.gallery_labels.shape[0])
        return missing, row


def widened(embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Converts half precision to float32, because its rounding exceeds the differences between the hardest pairs."""
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def prepared(
    embeddings: Float[Tensor, "b d"], normalize: bool, *, check: bool, name: str = "embeddings"
) -> tuple[Float[Tensor, "b d"], bool]:
    """The embeddings, L2-normalised in float32 or better if `normalize` is set, and whether all are known as unit rows.

    The norms are looked at on the CPU, and with `check` on a GPU. A row of zeros stays one.

    Raises:
        InvalidInput: if a value that is looked at is NaN, infinite or too large.
    """
    look = (check or embeddings.device.type == "cpu") and not torch.compiler.is_compiling()
    if not normalize:
        if look:
            check_finite(embeddings, name)
        return embeddings, False
    # The gradient of a zero row is scaled by 1/eps, which must not overflow in half precision.
    eps = 1e-3 if embeddings.dtype == torch.float16 else 1e-12
    rows = widened(embeddings)
    norm = torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    positive = False
    if look and norm.shape[0] and values_exist():
        least, most = (bound.item() for bound in torch.aminmax(norm))
        if not most <= LARGEST:
            check_finite(embeddings, name)  # small norms imply small values, and there are fewer norms to look at
        positive = least > eps
    unit: Tensor = _Normalized.apply(rows, norm, eps, positive)
    return unit, positive


class _Normalized(torch.autograd.Function):
    """Rows divided by max(norm, eps), as `functional.normalize`, with a cheaper backward pass.

    `positive` says that all norms are above eps.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, norm: Tensor, eps: float, positive: bool) -> Tensor:
        norm = norm if positive else norm.clamp(min=eps)
        unit: Tensor = rows / norm
        ctx.save_for_backward(unit, norm, rows)
        ctx.eps, ctx.positive = eps, positive
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        unit, norm, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative: the saved norm is detached
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=ctx.eps)
        along = (gradient * unit).sum(dim=1, keepdim=True)
        if not ctx.positive:
            along = along.masked_fill(norm <= ctx.eps, 0)  # there the division is linear
        return torch.addcmul(gradient, unit, along, value=-1).div_(norm), None, None, None
