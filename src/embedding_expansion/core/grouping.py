"""Which rows of a batch belong to which class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """The classes of a batch in ascending order of their label, and where their rows stand.

    `order[start[y] : start[y] + size[y]]` are the rows of class y, ascending.
    """

    label: Int[Tensor, " c"]
    of_row: Int[Tensor, " b"]  # the class of each row, 0..c-1
    order: Int[Tensor, " b"]
    start: Int[Tensor, " c"]
    size: Int[Tensor, " c"]

    def find(self, labels: Int[Tensor, " a"]) -> Int[Tensor, " a"]:
        """The class of each label; -1 where there is none."""
        place = torch.searchsorted(self.label, labels).clamp(max=len(self.label) - 1)
        return torch.where(self.label[place] == labels, place, -1)

    def positives(
        self, of_anchor: Int[Tensor, " a"], anchors: Int[Tensor, " a"] | None
    ) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The rows of each anchor's class, ascending, in as few slots as the largest class needs (at least one).

        Args:
            of_anchor: the class of each anchor, -1 for none.
            anchors: the anchors' own rows, which are no positives; None where the anchors are not among the rows.

        Returns:
            The rows, and which slots are used; an unused slot names the first row.
        """
        others = 0 if anchors is None else 1
        start = self.start[of_anchor, None]
        size = torch.where(of_anchor[:, None] < 0, 0, self.size[of_anchor, None]) - others
        slots = max(1, int(size.max())) if len(of_anchor) else 1
        slot = torch.arange(slots, device=of_anchor.device)
        position = start + slot
        if anchors is not None:
            rank = torch.empty_like(self.order)
            rank[self.order] = torch.arange(len(self.order), device=rank.device)
            position = position + (position >= rank[anchors, None])  # step over the anchor
        mask = slot < size
        return self.order[torch.where(mask, position, 0)], mask

    def by_size(self) -> list[tuple[Int[Tensor, " g"], Int[Tensor, "g k"]]]:
        """The classes in buckets of equal size, as (classes, their rows): padding to the largest costs its square."""
        buckets = []
        for k in torch.unique(self.size).tolist():
            classes = (self.size == k).nonzero().flatten()
            members = self.order[self.start[classes, None] + torch.arange(k, device=self.order.device)]
            buckets.append((classes, members))
        return buckets


def group(labels: Int[Tensor, " b"]) -> Classes:
    """Group the rows of a batch by label."""
    label, of_row, size = torch.unique(labels, return_inverse=True, return_counts=True)
    return Classes(label, of_row, torch.argsort(of_row, stable=True), size.cumsum(0) - size, size)
