"""The classes of a batch, from tensors of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from embedding_expansion.core.custom_op import CustomOp


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
    runs: tuple[tuple[int, int], ...]  # (size, number of classes of that size), by ascending size

    def find(self, labels: Int[Tensor, " a"]) -> Int[Tensor, " a"]:
        """The class of each label; -1 for a label without a class."""
        place = torch.searchsorted(self.label, labels).clamp(max=len(self.label) - 1)
        return torch.where(self.label[place] == labels, place, -1)

    def positives(
        self, of_anchor: Int[Tensor, " a"], anchors: Int[Tensor, " a"] | None, *, of_all: bool = False
    ) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The positives of each anchor, ascending, in as many slots as the largest class needs (at least one).

        Args:
            of_anchor: the class of each anchor, or -1 where it has no class.
            anchors: the rows of the anchors, which are not their own positives; None if the anchors are not among the
                rows.
            of_all: whether every class has an anchor. The number of slots is then known without a look at the anchors.

        Returns:
            The rows, and a mask of the slots that are used. An unused slot holds an arbitrary row.
        """
        if anchors is not None and len(self.runs) == 1:
            return self._positives_of_equals(anchors)
        others = 0 if anchors is None else 1
        start = self.start[of_anchor, None]
        size = torch.where(of_anchor[:, None] < 0, 0, self.size[of_anchor, None]) - others
        most = self.runs[-1][0] - others if of_all else int(size.max()) if len(of_anchor) else 1
        slots = max(1, most)
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

    def by_size(self) -> list[tuple[Int[Tensor, " g"], Int[Tensor, "g k"]]]:
        """The classes grouped by size, as pairs (classes, rows of these classes).

        Padding all classes to the largest would cost the square of its size.
        """
        buckets = []
        for k, _ in self.runs:
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
    return Classes(label, of_row, torch.argsort(of_row, stable=True), size.cumsum(0) - size, size, runs_of(size))


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
