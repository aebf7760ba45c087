"""How the members of groups stand beside each other on a side of the search: told by the groups' sizes alone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Groups ordered by size; those of equal size stand together and share one list of segments: nothing is padded."""

    member: Int[Tensor, " m"]  # group by group, the place of each member among the rows of the side
    rows: int  # how many rows stand on the side
    runs: tuple[tuple[int, int], ...]  # the sizes that occur, ascending, and how many groups have each
    originals: int | None  # how many members of each group are points themselves; None: all
    segments: tuple[Int[Tensor, "_ 2"], ...]  # for each size that occurs: between which members

    @cached_property
    def size(self) -> Int[Tensor, " g"]:
        """How many members each group has."""
        runs = torch.tensor(self.runs, dtype=torch.int64, device=self.member.device).view(-1, 2)
        return torch.repeat_interleave(runs[:, 0], runs[:, 1])

    @cached_property
    def buckets(self) -> list[tuple[slice, slice, int, Int[Tensor, "e 2"]]]:
        """For each size: which groups, which members, the size, and the segments."""
        found, group, member = [], 0, 0
        for (k, count), segments in zip(self.runs, self.segments, strict=True):
            found.append((slice(group, group + count), slice(member, member + count * k), k, segments))
            group, member = group + count, member + count * k
        return found

    @cached_property
    def first(self) -> Int[Tensor, " g"]:
        """Where each group's members begin."""
        return self.size.cumsum(0) - self.size

    @cached_property
    def gram_at(self) -> Int[Tensor, " g"]:
        """Where each group's Gram matrix begins, when the groups' Gram matrices are flattened one after another."""
        square = self.size * self.size
        return square.cumsum(0) - square

    @cached_property
    def gram_index(self) -> Int[Tensor, " o"]:
        """The entries of every group's Gram matrix, as indices into the flattened Gram matrix of the side's rows."""
        parts = []
        for _, members, k, _ in self.buckets:
            at = self.member[members].reshape(-1, k)
            parts.append((at[:, :, None] * self.rows + at[:, None, :]).flatten())
        return torch.cat(parts)

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """The groups as the native kernel reads them: numbers of 32 bits, segments in one list for each size."""
        lengths = torch.tensor([0, *(len(segments) for segments in self.segments)])
        originals = self.size if self.originals is None else torch.full_like(self.size, self.originals)
        kinds, counts = torch.arange(len(self.runs)), torch.tensor([count for _, count in self.runs])
        numbers = {
            "first": torch.cat([self.first, torch.tensor([len(self.member)])]),
            "row": self.member,
            "originals": originals,
            "kind": kinds.repeat_interleave(counts),
            "list": lengths.cumsum(0),
            "segment": torch.cat([segments.flatten() for segments in self.segments]),
        }
        return {name: number.int().contiguous() for name, number in numbers.items()} | {"gram_at": self.gram_at}


@functools.lru_cache(maxsize=4)
def class_layout(
    runs: tuple[tuple[int, int], ...], pairs_only: bool, max_segments: int | None, device: torch.device
) -> Layout:
    """The layout of classes of these sizes, each of whose members stands on the side once.

    Kept, as the batches of a training are of few sizes.

    Args:
        runs: as in Layout.
        pairs_only: segments join members (0,1), (2,3), ... only, not every two.
        max_segments: of a class.
        device: where the numbers lie.
    """
    with torch.inference_mode(False):  # what is kept must be fit for the next caller
        total = sum(k * count for k, count in runs)
        lists = []
        for k, _ in runs:
            pairs = torch.arange(k - k % 2, device=device).reshape(k // 2, 2)
            lists.append(pairs if pairs_only else segments_between(k, max_segments, device))
        return Layout(torch.arange(total, device=device), total, runs, None, tuple(lists))


def segments_between(k: int, max_segments: int | None, device: torch.device) -> Int[Tensor, "e 2"]:
    """Every two of k members; of more than `max_segments` those of neighbours first, so that all members take part."""
    ends = torch.triu_indices(k, k, offset=1, device=device).T
    if max_segments is None or len(ends) <= max_segments:
        return ends
    apart = ends[:, 1] - ends[:, 0]
    apart = torch.minimum(apart, k - apart)  # the last member is the first one's neighbour
    return ends[torch.argsort(apart, stable=True)[:max_segments].sort().values]
