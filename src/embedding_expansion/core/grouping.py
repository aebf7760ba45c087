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

    def positives(self, rows: Int[Tensor, " a"]) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The other rows of each anchor's class, ascending, in as few slots as the largest class needs (at least one).

        An unused slot names the anchor itself and is masked.
        """
        of_anchor = self.of_row[rows]
        start, size = self.start[of_anchor, None], self.size[of_anchor, None]
        rank = torch.empty_like(self.order)
        rank[self.order] = torch.arange(len(self.order), device=rank.device)
        slots = max(1, int(size.max()) - 1) if len(rows) else 1
        slot = torch.arange(slots, device=rows.device)
        position = start + slot
        position = position + (position >= rank[rows, None])  # step over the anchor
        mask = slot < size - 1
        index = self.order[position.clamp(max=len(self.order) - 1)] if len(rows) else position
        return torch.where(mask, index, rows[:, None]), mask

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
