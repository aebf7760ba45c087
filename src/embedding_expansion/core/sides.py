"""The two sides of the search: the points that classes, or anchors, offer to mining.

A point is a weighted sum of two rows, so it is named by two members of its group and a weight, and never built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.grouping import Classes
from embedding_expansion.errors import InvalidInput

Scope: TypeAlias = Literal["class_pair", "anchor"]
SCOPES: tuple[Scope, ...] = ("class_pair", "anchor")


@dataclass(frozen=True)
class Side:
    """Groups of rows, ordered by size: classes or, for the anchors of anchor scope, an anchor with its partner.

    Groups of equal size stand together and share one list of segments, so that nothing is padded.
    """

    rows: Int[Tensor, " s"]  # rows of the batch that stand on this side, each once
    member: Int[Tensor, " m"]  # group by group, the place of each member in `rows`
    size: Int[Tensor, " g"]
    label: Int[Tensor, " g"]  # the class of each group; no pair is looked for within one
    originals: int | None  # how many members of each group are points themselves; None: all
    segments: tuple[Int[Tensor, "_ 2"], ...]  # for each size that occurs, ascending: between which members
    barred: Bool[Tensor, " m"] | None = None  # members that may not be both ends of a point

    @cached_property
    def buckets(self) -> list[tuple[slice, slice, int, Int[Tensor, "e 2"]]]:
        """For each size: which groups, which members, the size, and the segments."""
        found, group, member = [], 0, 0
        sizes, counts = torch.unique(self.size, return_counts=True)
        for (k, count), segments in zip(zip(sizes.tolist(), counts.tolist(), strict=True), self.segments, strict=True):
            found.append((slice(group, group + count), slice(member, member + count * k), k, segments))
            group, member = group + count, member + count * k
        return found

    @property
    def first(self) -> Int[Tensor, " g"]:
        """Where each group's members begin."""
        return self.size.cumsum(0) - self.size

    @property
    def own_at(self) -> Int[Tensor, " g"]:
        """Where each group's inner products with itself begin, where they stand group by group."""
        square = self.size * self.size
        return square.cumsum(0) - square

    @cached_property
    def layout(self) -> dict[str, Tensor]:
        """The groups as the native kernel reads them: numbers of 32 bits, segments in one list for each size."""
        lengths = torch.tensor([0, *(len(segments) for segments in self.segments)])
        originals = self.size if self.originals is None else torch.full_like(self.size, self.originals)
        numbers = {
            "first": torch.cat([self.first, torch.tensor([len(self.member)])]),
            "row": self.member,
            "label": self.label,
            "originals": originals,
            "kind": torch.unique(self.size, return_inverse=True)[1],
            "list": lengths.cumsum(0),
            "segment": torch.cat([segments.flatten() for segments in self.segments]),
        }
        return {name: number.int().contiguous() for name, number in numbers.items()} | {"own_at": self.own_at}

    @cached_property
    def own_index(self) -> Int[Tensor, " o"]:
        """Where the inner products of every group with itself stand in the flattened product of `rows` with `rows`."""
        parts = []
        for _, members, k, _ in self.buckets:
            at = self.member[members].reshape(-1, k)
            parts.append((at[:, :, None] * len(self.rows) + at[:, None, :]).flatten())
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def own_products(self, embeddings: Float[Tensor, "s d"]) -> Float[Tensor, " o"]:
        """The same, computed from the rows' embeddings."""
        parts = []
        for _, members, k, _ in self.buckets:
            of_group = embeddings[self.member[members]].reshape(-1, k, embeddings.shape[1])
            parts.append((of_group @ of_group.mT).flatten())
        return torch.cat(parts)

    def by_size(self, own: Float[Tensor, " o"]) -> Iterator[Float[Tensor, "g k k"]]:
        """What stands group by group, as a block for each size."""
        at = 0
        for groups, _, k, _ in self.buckets:
            count = groups.stop - groups.start
            yield own[at : at + count * k * k].reshape(count, k, k)
            at += count * k * k

    def own_products_back(self, gradient: Float[Tensor, " o"], embeddings: Float[Tensor, "s d"]) -> Tensor:
        """What these pass back to the rows' embeddings, (s, d)."""
        result = torch.zeros_like(embeddings)
        for (_, members, k, _), of_products in zip(self.buckets, self.by_size(gradient), strict=True):
            of_group = embeddings[self.member[members]].reshape(-1, k, embeddings.shape[1])
            result.index_add_(0, self.member[members], ((of_products + of_products.mT) @ of_group).flatten(0, 1))
        return result


def interpolated(
    segments: Int[Tensor, "s 2"], n: int, dtype: torch.dtype
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, "p 2"]]:
    """Ends and weights of the n inner points of every segment: (k x_i + (n + 1 - k) x_j) / (n + 1), k = 1..n."""
    k = torch.arange(1, n + 1, device=segments.device, dtype=torch.float64) / (n + 1)
    weights = torch.stack([k, 1 - k], dim=1).to(dtype)
    return segments.repeat_interleave(n, dim=0), weights.repeat(len(segments), 1)


def segments_between(k: int, max_segments: int | None, device: torch.device) -> Int[Tensor, "e 2"]:
    """Every two of k members; of more than `max_segments` those of neighbours first, so that all members take part."""
    ends = torch.triu_indices(k, k, offset=1, device=device).T
    if max_segments is None or len(ends) <= max_segments:
        return ends
    apart = ends[:, 1] - ends[:, 0]
    apart = torch.minimum(apart, k - apart)  # the last member is the first one's neighbour
    return ends[torch.argsort(apart, stable=True)[:max_segments].sort().values]


def class_side(classes: Classes, *, scope: Scope, max_segments: int | None) -> Side:
    """All classes, by size: segments join every two rows, in anchor scope rows (0,1), (2,3), ... only."""
    by_size = torch.argsort(classes.size, stable=True)
    size = classes.size[by_size]
    total = len(classes.order)
    everyone = torch.arange(total, device=size.device)
    shift = (classes.start[by_size] - (size.cumsum(0) - size)).repeat_interleave(size, output_size=total)
    lists = []
    for k in torch.unique(size).tolist():
        if scope == "anchor":
            lists.append(torch.arange(k, device=size.device).reshape(k // 2, 2))
        else:
            lists.append(segments_between(k, max_segments, size.device))
    return Side(classes.order[everyone + shift], everyone, size, by_size, None, tuple(lists))


def some_classes(side: Side, chosen: Bool[Tensor, " c"], past: Bool[Tensor, " b"] | None) -> Side:
    """The anchors' side of class-pair scope: the classes chosen; past rows may not be both ends of a point."""
    if not bool(chosen.all()):
        keep = chosen[side.label]
        of_member = keep.repeat_interleave(side.size, output_size=len(side.member))
        sizes = side.size[keep]
        there = torch.isin(torch.unique(side.size), sizes).tolist()
        rows = side.rows[side.member[of_member]]
        side = Side(
            rows=rows,
            member=torch.arange(len(rows), device=rows.device),
            size=sizes,
            label=side.label[keep],
            originals=None,
            segments=tuple(segments for segments, is_there in zip(side.segments, there, strict=True) if is_there),
        )
    return side if past is None else replace(side, barred=past[side.rows])


def anchor_side(classes: Classes, rows: Int[Tensor, " a"], every_row: Int[Tensor, " b"] | None) -> Side:
    """The anchors' side of anchor scope: each anchor, and the segment to its partner in the batch.

    Args:
        classes: of the batch.
        rows: the anchors.
        every_row: the order in which all rows of the batch stand on this side; by default only those needed do.
    """
    both = torch.stack([rows, rows ^ 1], dim=1).flatten()  # rows (0,1), (2,3), ... are partners
    standing = torch.unique(both) if every_row is None else every_row
    where = torch.empty_like(classes.order)
    where[standing] = torch.arange(len(standing), device=rows.device)
    return Side(
        standing,
        where[both],
        torch.full_like(rows, 2),
        classes.of_row[rows],
        1,
        (torch.tensor([[0, 1]], device=rows.device),),
    )


def check_paired(labels: Int[Tensor, " b"]) -> None:
    """Raise InvalidInput unless rows (0,1), (2,3), ... are of one class each, as anchor scope reads them."""
    if len(labels) % 2:
        raise InvalidInput(
            f"anchor scope pairs rows (0,1), (2,3), ..., but the batch has {len(labels)} rows; pass an even number"
        )
    split = (labels[0::2] != labels[1::2]).nonzero().flatten()
    if len(split):
        i = 2 * int(split[0])
        raise InvalidInput(
            f"anchor scope pairs rows (0,1), (2,3), ..., but rows {i} and {i + 1} have the labels {int(labels[i])} and "
            f"{int(labels[i + 1])}; order the batch so that each pair is of one class, or use scope='class_pair'"
        )
