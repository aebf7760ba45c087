"""The classes of a batch, and what follows from their pattern alone.

Batches of a training run repeat few patterns: which rows are of one class. What follows from a pattern is kept for the
next batch that has it. The key is the whole pattern, so that it cannot be mistaken for another.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from embedding_expansion.core.inputs import values_exist

R = TypeVar("R")
LAYOUTS = 4  # patterns to keep
LARGEST_KEPT = 1 << 22  # entries of a table beyond which nothing is kept, so that it takes little memory


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


class HostLabels(NamedTuple):
    """The labels of a batch as plain numbers, beside the tensor that holds them."""

    tensor: Int[Tensor, " b"]
    values: tuple[int, ...]

    def of(self, labels: Int[Tensor, " b"]) -> tuple[int, ...] | None:
        """The numbers, if they are those of this very tensor."""
        return self.values if labels is self.tensor else None


def numbered(values: Sequence[int], order: Iterable[int]) -> tuple[int, ...]:
    """The place of every value in `order`, where each occurs once or more often."""
    place = {value: number for number, value in enumerate(dict.fromkeys(order))}
    return tuple(map(place.__getitem__, values))


def kept(function: Callable[..., R]) -> Callable[..., R]:
    """Keeps the last few results of a function of numbers and a device, where there are values to keep.

    A tuple of tensors of which somebody has changed one in place is made again.
    """

    @functools.lru_cache(maxsize=LAYOUTS)
    def versioned(*given: Any) -> tuple[R, list[int]]:
        with torch.inference_mode(False):  # an inference tensor would be of no use to autograd
            found = function(*given)
        return found, _versions(found)

    @functools.wraps(function)
    def call(*given: Any) -> R:
        if not values_exist():
            return function(*given)
        found, versions = versioned(*given)
        if _versions(found) != versions:
            versioned.cache_clear()
            found, _ = versioned(*given)
        return found

    return call


def _versions(found: Any) -> list[int]:
    """How often each tensor has been changed in place; of a dataclass, its own tensors."""
    tensors = found if isinstance(found, tuple) else vars(found).values()
    return [tensor._version for tensor in tensors if isinstance(tensor, Tensor)]


def group_values(values: tuple[int, ...], device: torch.device) -> Classes:
    """`group` for labels that are known as numbers: without an operation whose result depends on data."""
    label = sorted(set(values))
    of_row = numbered(values, label)
    numbers = torch.tensor(label, dtype=torch.int64, device=device)
    return Classes(numbers, *_rows_of_classes(of_row, device), runs_of_pattern(of_row))


def group_adjacent(labels: Int[Tensor, " g"], k: int) -> Classes:
    """`group` for the labels 0, 1, 2, ..., each k times."""
    rows = torch.arange(len(labels), device=labels.device)
    start = rows[::k]
    return Classes(rows[: len(start)], labels, rows, start, torch.full_like(start, k), ((k, len(start)),))


def runs_of_pattern(pattern: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """`Classes.runs` for the class of every row."""
    return tuple(sorted(Counter(Counter(pattern).values()).items()))


@kept
def _rows_of_classes(of_row: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`of_row`, `order`, `start` and `size` of `Classes`."""
    count = Counter(of_row)
    size = [count[number] for number in range(len(count))]
    start = [0] * len(size)
    for number in range(1, len(size)):
        start[number] = start[number - 1] + size[number - 1]
    order = sorted(range(len(of_row)), key=of_row.__getitem__)
    found = (torch.tensor(numbers, dtype=torch.int64, device=device) for numbers in (of_row, order, start, size))
    return tuple(found)  # type: ignore[return-value]


class PlainLayout(NamedTuple):
    """The slots of positives and the mask of negatives where all rows are compared with each other."""

    positive: Int[Tensor, "b p"]
    positive_mask: Bool[Tensor, "b p"]
    negative_mask: Bool[Tensor, "b b"]


def plain_layout(values: tuple[int, ...], device: torch.device) -> PlainLayout:
    """The layout of a batch with these labels. Only the pattern counts: which of the labels are equal."""
    make = _plain_layout if len(values) ** 2 <= LARGEST_KEPT else _plain_layout.__wrapped__  # type: ignore[attr-defined]
    found: PlainLayout = make(numbered(values, values), device)
    return found


@kept
def _plain_layout(pattern: tuple[int, ...], device: torch.device) -> PlainLayout:
    found = _rows_of_classes.__wrapped__(pattern, device)  # type: ignore[attr-defined]
    of_row, order, start, size = found
    numbers = torch.arange(len(size), device=device)
    classes = Classes(numbers, of_row, order, start, size, runs_of_pattern(pattern))
    everyone = torch.arange(len(pattern), device=device)
    index, mask = classes.positives(classes.of_row, everyone, of_all=True)
    return PlainLayout(index, mask, classes.of_row[:, None] != classes.of_row)


@kept
def _everyone(count: int, device: torch.device) -> tuple[Int[Tensor, " b"]]:
    return (torch.arange(count, device=device),)


@kept
def _adjacent(classes: int, k: int, device: torch.device) -> tuple[Int[Tensor, " g"]]:
    return (torch.arange(classes, device=device).repeat_interleave(k),)


def adjacent(classes: int, k: int, device: torch.device) -> Int[Tensor, " g"]:
    """The labels 0, 1, 2, ... of some classes, each k times."""
    make = _adjacent.__wrapped__ if torch.compiler.is_compiling() else _adjacent  # type: ignore[attr-defined]
    found: Tensor = make(classes, k, device)[0]
    return found


def everyone(labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The rows of a batch with these labels, 0 to b - 1."""
    given = len(labels), labels.device
    return torch.arange(given[0], device=given[1]) if torch.compiler.is_compiling() else _everyone(*given)[0]
