"""The checked arguments of a loss, the batch that its table is made from, and the classes of the batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.chosen import ChosenPairs, IndicesTuple
from embedding_expansion.core.custom_op import CustomOp
from embedding_expansion.core.inputs import (
    LARGEST,
    Labels,
    as_batch,
    as_memory_mask,
    as_reference,
    as_rows,
    check_finite,
    validates,
)


@dataclass(frozen=True)
class Classes:
    """The classes of a batch in ascending order of their label, and the rows of each.

    `order[start[y] : start[y] + size[y]]` are the rows of class y in ascending order.
    """

    label: Int[Tensor, " c"]
    of_row: Int[Tensor, " b"]  # the class of each row, 0..c-1
    order: Int[Tensor, " b"]
    start: Int[Tensor, " c"]
    size: Int[Tensor, " c"]

    def find(self, labels: Int[Tensor, " a"]) -> Int[Tensor, " a"]:
        """The class of each label; -1 for a label without a class."""
        place = torch.searchsorted(self.label, labels).clamp(max=len(self.label) - 1)
        return torch.where(self.label[place] == labels, place, -1)

    def positives(
        self, of_anchor: Int[Tensor, " a"], anchors: Int[Tensor, " a"] | None
    ) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The positives of each anchor, ascending, in as many slots as the largest class needs (at least one).

        Args:
            of_anchor: the class of each anchor, or -1 where it has no class.
            anchors: the rows of the anchors, which are not their own positives; None if the anchors are not among the
                rows.

        Returns:
            The rows, and a mask of the slots that are used. An unused slot holds an arbitrary row.
        """
        if anchors is not None and len(self.runs) == 1:
            return self._positives_of_equals(anchors)
        others = 0 if anchors is None else 1
        start = self.start[of_anchor, None]
        size = torch.where(of_anchor[:, None] < 0, 0, self.size[of_anchor, None]) - others
        slots = max(1, int(size.max())) if len(of_anchor) else 1
        slot = torch.arange(slots, device=of_anchor.device)
        position = start + slot
        if anchors is not None:
            rank = torch.empty_like(self.order)
            rank[self.order] = torch.arange(self.order.shape[0], device=rank.device)
            position = position + (position >= rank[anchors, None])  # step over the anchor
        mask = slot < size
        return self.order[torch.where(mask, position, 0)], mask

    def _positives_of_equals(self, anchors: Int[Tensor, " a"]) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """`positives` for classes of equal size, in fewer steps."""
        k = self.runs[0][0]
        slots = max(1, k - 1)
        slot, member = torch.arange(slots, device=anchors.device), torch.arange(k, device=anchors.device)[:, None]
        others = slot + (slot >= member) if k > 1 else torch.zeros_like(member)
        index = self.order.new_empty(self.order.shape[0], slots)
        index[self.order] = self.order.view(-1, k).index_select(1, others.flatten()).view(-1, slots)
        index = index.index_select(0, anchors)
        return index, torch.full_like(index, k > 1, dtype=torch.bool)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """(size, number of classes of that size), by ascending size."""
        return runs_of(self.size)

    def by_size(self) -> list[tuple[Int[Tensor, " g"], Int[Tensor, "g k"]]]:
        """The classes grouped by size, as pairs (classes, rows of these classes).

        Padding all classes to the largest would cost the square of its size.
        """
        buckets = []
        for k in torch.unique(self.size).tolist():
            classes = (self.size == k).nonzero().flatten()
            members = self.order[self.start[classes, None] + torch.arange(k, device=self.order.device)]
            buckets.append((classes, members))
        return buckets


def runs_of(size: Int[Tensor, " g"]) -> tuple[tuple[int, int], ...]:
    """(size, how often it occurs), by ascending size."""
    if size.shape[0] == 0:
        return ()
    low, high = (int(bound) for bound in torch.aminmax(size))
    if low == high:
        return ((low, size.shape[0]),)
    sizes, counts = torch.unique(size, return_counts=True)
    return tuple(zip(sizes.tolist(), counts.tolist(), strict=True))


def group(labels: Int[Tensor, " b"]) -> Classes:
    """Groups the rows of a batch by label."""
    label, of_row, size = torch.unique(labels, return_inverse=True, return_counts=True)
    return Classes(label, of_row, torch.argsort(of_row, stable=True), size.cumsum(0) - size, size)


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
        embeddings, labels = as_batch(embeddings, labels)
        if from_memory is not None:
            from_memory = as_memory_mask(from_memory, embeddings)
        if rows is not None:
            rows = as_rows(rows, from_memory, len(labels), labels.device)
        if reference is not None or reference_labels is not None:
            reference, reference_labels = as_reference(reference, reference_labels, embeddings)
        chosen = None if indices_tuple is None else ChosenPairs.of(indices_tuple, labels.device)
        return cls(embeddings, labels, rows, from_memory, reference, reference_labels, chosen)

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
        return Inputs(self.embeddings[kept], self.labels[kept], rows, from_memory, reference, of_reference, chosen)

    def prepared(self, normalize: bool, *, check: bool) -> Inputs:
        """The arguments with prepared embeddings and reference; see the function `prepared`."""
        reference = self.reference
        if reference is not None:
            reference = prepared(reference, normalize, check=check, name="reference")
        return replace(self, embeddings=prepared(self.embeddings, normalize, check=check), reference=reference)


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
            everyone = torch.arange(len(inputs.labels), device=inputs.labels.device)
            anchors = everyone if from_memory is None else rows_where(~from_memory)
        return cls(
            embeddings,
            inputs.labels,
            anchors,
            from_memory,
            gallery,
            gallery_labels,
            has_reference=reference is not None,
            every_row=inputs.rows is None and from_memory is None,
            chosen=inputs.chosen,
        )

    def against_proxies(self) -> Batch:
        """This batch, with its reference marked as proxies."""
        return replace(self, proxies="gallery")

    def swapped(self) -> Batch:
        """The batch whose anchors are all proxies of the reference, and whose gallery is this batch."""
        everyone = torch.arange(len(self.gallery_labels), device=self.labels.device)
        sides = (self.gallery, self.gallery_labels, everyone, None, self.embeddings, self.labels)
        return Batch(*sides, has_reference=True, every_row=True, proxies="anchors")

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
        for name in ("product", "classes", "of_anchor"):
            if name in self.__dict__:
                found.__dict__[name] = self.__dict__[name]
        return found

    @cached_property
    def product(self) -> Float[Tensor, "b g"]:
        """The inner products of the rows with the gallery, without gradient."""
        with torch.no_grad(), torch.autocast(self.embeddings.device.type, enabled=False):
            return self.embeddings @ self.gallery.T

    @cached_property
    def classes(self) -> Classes:
        """The classes of the gallery."""
        return group(self.gallery_labels)

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
        if self.has_reference:
            if not bool(torch.isin(self.labels, self.gallery_labels).any()):
                return "no class of the batch is in the reference, so there is no positive pair"
        elif len(self.classes.size) == len(self.labels):
            return "no class of the batch has two images, so there is no positive pair and nothing is pulled together"
        elif len(self.classes.size) == 1:
            return "the batch is of one class, so there is no negative pair and nothing is pushed apart"
        return None

    def positives(self) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The gallery rows of each anchor's positives, and a mask of the slots that are used."""
        anchors = None if self.has_reference else self.anchors
        if torch.compiler.is_compiling():
            index, mask = positives(self.gallery_labels, self.labels[self.anchors], anchors)
            return index, mask
        return self.classes.positives(self.of_anchor, anchors)

    def partners(
        self, index: Int[Tensor, "a p"], mask: Bool[Tensor, "a p"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "a p"]]:
        """The positives that are not anchors, each once, and the row of the table that belongs to each positive.

        The first rows of the table belong to the anchors, the following ones to the positives that are not anchors.
        """
        anchors = None if self.has_reference else self.anchors
        missing, row = partners(index, mask, anchors, self.anchors.shape[0], self.gallery_labels.shape[0])
        return missing, row


def widened(embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Converts half precision to float32, because its rounding exceeds the differences between the hardest pairs."""
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def prepared(
    embeddings: Float[Tensor, "b d"], normalize: bool, *, check: bool, name: str = "embeddings"
) -> Float[Tensor, "b d"]:
    """The embeddings, L2-normalised in float32 or better if `normalize` is set.

    Raises:
        InvalidInput: if a value is NaN, infinite or too large. This is checked on the CPU, and with `check` on a GPU.
    """
    look = check or embeddings.device.type == "cpu"
    if not normalize:
        if look:
            check_finite(embeddings, name)
        return embeddings
    # The gradient of a zero row is scaled by 1/eps, which must not overflow in half precision.
    eps = 1e-3 if embeddings.dtype == torch.float16 else 1e-12
    rows = widened(embeddings)
    norm = torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    if look and not torch.compiler.is_compiling() and norm.shape[0] and not norm.amax().item() <= LARGEST:
        check_finite(embeddings, name)  # small norms imply small values, and there are fewer norms to look at
    unit: Tensor = _Normalized.apply(rows, norm, eps)
    return unit


class _Normalized(torch.autograd.Function):
    """Rows divided by max(norm, eps), as `functional.normalize`, with a cheaper backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, norm: Tensor, eps: float) -> Tensor:
        unit: Tensor = rows / norm.clamp(min=eps)
        ctx.save_for_backward(unit, norm, rows)
        ctx.eps = eps
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        unit, norm, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative: the saved norm is detached
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        along = (gradient * unit).sum(dim=1, keepdim=True)
        along = torch.where(norm > ctx.eps, along, 0)  # below eps the division is linear
        return torch.addcmul(gradient, unit, along, value=-1).div_(norm.clamp(min=ctx.eps)), None, None
