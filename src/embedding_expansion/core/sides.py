"""The two sides of the search: which groups of rows are compared. They follow from the labels alone.

`Layout` orders groups by size. `Side` is a layout with its rows and labels. `Plan` holds both sides and maps the result
of the search to a table. A point is a weighted sum of two rows; it is stored as two members of its group and a weight,
and its coordinates are never computed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.batch import Batch, Pattern, largest_kept
from embedding_expansion.core.classes import Classes, runs_of
from embedding_expansion.core.inputs import values_exist
from embedding_expansion.core.kept import kept
from embedding_expansion.core.numbers import moved, numbers_of, on_cpu
from embedding_expansion.errors import InvalidInput
from embedding_expansion.forms import Scope


@dataclass(frozen=True, eq=False)
class Layout:
    """Groups ordered by size. Groups of equal size are adjacent and share one list of segments, without padding."""

    member: Int[Tensor, " m"]  # the members of all groups, group by group, as indices into the side's rows
    rows: int  # the number of rows of the side
    runs: tuple[tuple[int, int], ...]  # (size, number of groups of that size), by ascending size
    originals: int | None  # how many members of each group are points themselves; None: all
    segments: tuple[Int[Tensor, "_ 2"], ...]  # for each size, the two members that each segment joins

    sent_along: ClassVar[tuple[str, ...]] = ("size", "first", "gram_at", "table", "segment")

    @cached_property
    def size(self) -> Int[Tensor, " g"]:
        """The number of members of each group."""
        runs = torch.tensor(self.runs, dtype=torch.int64, device=self.member.device).view(-1, 2)
        return torch.repeat_interleave(runs[:, 0], runs[:, 1], output_size=sum(count for _, count in self.runs))

    @cached_property
    def buckets(self) -> list[tuple[slice, slice, int, Int[Tensor, "e 2"]]]:
        """One tuple per size: the slice of its groups, the slice of their members, the size, and the segments."""
        found, group, member = [], 0, 0
        for (k, count), segments in zip(self.runs, self.segments, strict=True):
            found.append((slice(group, group + count), slice(member, member + count * k), k, segments))
            group, member = group + count, member + count * k
        return found

    @cached_property
    def first(self) -> Int[Tensor, " g"]:
        """The index of each group's first member in `member`."""
        return self.size.cumsum(0) - self.size

    @cached_property
    def gram_at(self) -> Int[Tensor, " g"]:
        """The offset of each group's Gram matrix among the flattened Gram matrices."""
        square = self.size * self.size
        return square.cumsum(0) - square

    @cached_property
    def gram_index(self) -> Int[Tensor, " o"]:
        """The indices of every group's Gram matrix in the flattened Gram matrix of all rows of the side."""
        parts = []
        for _, members, k, _ in self.buckets:
            at = self.member[members].reshape(-1, k)
            parts.append((at[:, :, None] * self.rows + at[:, None, :]).flatten())
        return torch.cat(parts)

    @cached_property
    def table(self) -> Int[Tensor, "g 6"]:
        """What the kernels of `search/triton/` read of each group; the columns are named in their `points.py`."""
        at, columns = 0, []
        for (k, count), segments in zip(self.runs, self.segments, strict=True):
            row = [k if self.originals is None else self.originals, at, len(segments)]
            columns.append(torch.tensor(row, device=self.member.device).expand(count, 3))
            at += len(segments)
        originals, segments_at, length = torch.cat(columns).T
        return torch.stack([self.first, self.size, originals, segments_at, length, self.gram_at], dim=1).int()

    @cached_property
    def segment(self) -> Int[Tensor, "e 2"]:
        """The segments of all sizes, one list after another; at least one entry, which no group may have."""
        return torch.cat([*self.segments, self.member.new_zeros(1, 2)]).int()

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        """The arrays that the C code reads: 32-bit integers (`gram_at` has 64 bits), with one segment list per size."""
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


def class_layout(
    runs: tuple[tuple[int, int], ...], pairs_only: bool, max_segments: int | None, device: torch.device
) -> Layout:
    """The layout of classes of the given sizes, in which each row is a member of one class.

    The last few layouts are kept, because the batches of a training run have few different sizes.

    Args:
        runs: as in `Layout`.
        pairs_only: join only members (0,1), (2,3), ... by segments, instead of every two members.
        max_segments: the largest number of segments of a class; None: no limit.
        device: the device of the tensors.
    """
    make = _class_layout if values_exist() else _class_layout.__wrapped__
    return make(runs, pairs_only, max_segments, device)


@functools.lru_cache(maxsize=4)
def _class_layout(
    runs: tuple[tuple[int, int], ...], pairs_only: bool, max_segments: int | None, device: torch.device
) -> Layout:
    with torch.inference_mode(False):  # cached tensors must not be inference tensors: later callers may need autograd
        total = sum(k * count for k, count in runs)
        lists = []
        for k, _ in runs:
            pairs = torch.arange(k - k % 2, device=device).reshape(k // 2, 2)
            lists.append(pairs if pairs_only else segments_between(k, max_segments, device))
        return Layout(torch.arange(total, device=device), total, runs, None, tuple(lists))


def segments_between(k: int, max_segments: int | None, device: torch.device) -> Int[Tensor, "e 2"]:
    """The segments between every two of k members; beyond `max_segments`, only those between the nearest neighbours.

    Neighbours come first so that every member is an end of a segment.
    """
    ends = torch.triu_indices(k, k, offset=1, device=device).T
    if max_segments is None or len(ends) <= max_segments:
        return ends
    apart = ends[:, 1] - ends[:, 0]
    apart = torch.minimum(apart, k - apart)  # the last member is a neighbour of the first
    return ends[torch.argsort(apart, stable=True)[:max_segments].sort().values]


@dataclass(frozen=True)
class Side:
    """Groups of rows: classes or, on the anchors' side of the other scopes, an anchor, with or without its partner."""

    rows: Int[Tensor, " s"]  # the rows of the batch on this side, each once
    label: Int[Tensor, " g"]  # the class of each group; the search compares groups of different classes only
    layout: Layout
    barred: Bool[Tensor, " m"] | None = None  # a point must not have two of these members as its ends

    @property
    def member(self) -> Int[Tensor, " m"]:
        """The members of all groups, group by group, as indices into `rows`."""
        return self.layout.member

    @property
    def size(self) -> Int[Tensor, " g"]:
        """The number of members of each group."""
        return self.layout.size

    def in_order(self, b: int) -> bool:
        """Whether the rows are known to be all b rows in order. On an accelerator nobody looks."""
        return self._in_order and self.rows.shape[0] == b

    @cached_property
    def _in_order(self) -> bool:
        look = self.rows.device.type == "cpu" and values_exist()
        return look and torch.equal(self.rows, torch.arange(self.rows.shape[0]))

    @cached_property
    def short_label(self) -> Int[Tensor, " g"]:
        """The class of each group as a 32-bit integer, for the C code."""
        return self.label.int()

    def grams(self, embeddings: Float[Tensor, "s d"]) -> Float[Tensor, " o"]:
        """Computes the Gram matrices of all groups from the embeddings of `rows`, flattened one after another."""
        parts = []
        for _, members, k, _ in self.layout.buckets:
            of_group = embeddings[self.member[members]].reshape(-1, k, embeddings.shape[1])
            parts.append((of_group @ of_group.mT).flatten())
        return torch.cat(parts)

    def by_size(self, grams: Float[Tensor, " o"]) -> Iterator[Float[Tensor, "g k k"]]:
        """Splits the flattened Gram matrices into one batch of matrices per group size, as in `layout.buckets`."""
        at = 0
        for groups, _, k, _ in self.layout.buckets:
            count = groups.stop - groups.start
            yield grams[at : at + count * k * k].reshape(count, k, k)
            at += count * k * k

    def grams_backward(self, gradient: Float[Tensor, " o"], embeddings: Float[Tensor, "s d"]) -> Tensor:
        """The backward pass of `grams`: maps the gradient of the Gram matrices to that of the embeddings, (s, d)."""
        result = torch.zeros_like(embeddings)
        for (_, members, k, _), of_grams in zip(self.layout.buckets, self.by_size(gradient), strict=True):
            of_group = embeddings[self.member[members]].reshape(-1, k, embeddings.shape[1])
            result.index_add_(0, self.member[members], ((of_grams + of_grams.mT) @ of_group).flatten(0, 1))
        return result


def interpolated(
    segments: Int[Tensor, "s 2"], n: int, dtype: torch.dtype
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, "p 2"]]:
    """The ends and weights of n points on every segment: (k x_i + (n + 1 - k) x_j) / (n + 1) for k = 1..n."""
    k = torch.arange(1, n + 1, device=segments.device, dtype=torch.float64) / (n + 1)
    weights = torch.stack([k, 1 - k], dim=1).to(dtype)
    return segments.repeat_interleave(n, dim=0), weights.repeat(len(segments), 1)


def class_side(classes: Classes, *, scope: Scope, max_segments: int | None) -> Side:
    """The side of all classes, ordered by size.

    Segments join every two rows of a class; in anchor scope only rows (0,1), (2,3), ...
    """
    runs = classes.runs
    layout = class_layout(runs, scope == "anchor", max_segments, classes.size.device)
    if len(runs) <= 1:
        return Side(classes.order, torch.arange(classes.size.shape[0], device=classes.size.device), layout)
    by_size = torch.argsort(classes.size, stable=True)
    shift = (classes.start[by_size] - layout.first).repeat_interleave(layout.size, output_size=layout.rows)
    return Side(classes.order[layout.member + shift], by_size, layout)


def some_classes(
    side: Side, chosen: Bool[Tensor, " c"], from_memory: Bool[Tensor, " b"] | None, max_segments: int | None
) -> Side:
    """The anchors' side of class-pair scope: the chosen classes of `side`.

    A point on it has at least one end that is not from a memory.
    """
    if not bool(chosen.all()):
        keep = chosen[side.label]
        of_member = keep.repeat_interleave(side.size, output_size=len(side.member))
        layout = class_layout(runs_of(side.size[keep]), False, max_segments, side.rows.device)
        side = Side(side.rows[side.member[of_member]], side.label[keep], layout)
    return side if from_memory is None else replace(side, barred=from_memory[side.rows])


def anchor_side(classes: Classes, rows: Int[Tensor, " a"], every_row: Int[Tensor, " b"] | None) -> Side:
    """The anchors' side of anchor scope: each anchor, and the segment to its partner in the batch.

    Args:
        classes: the classes of the batch.
        rows: the anchors.
        every_row: all rows of the batch in the order that they shall have on this side; None: the side holds only the
            anchors and their partners.
    """
    both = torch.stack([rows, rows ^ 1], dim=1).flatten()  # rows (0,1), (2,3), ... are partners
    on_side = torch.unique(both) if every_row is None else every_row
    where = torch.empty_like(classes.order)
    where[on_side] = torch.arange(len(on_side), device=rows.device)
    segments = (torch.tensor([[0, 1]], device=rows.device),)
    return Side(on_side, classes.of_row[rows], Layout(where[both], len(on_side), ((2, len(rows)),), 1, segments))


def single_side(classes: Classes, rows: Int[Tensor, " a"], every_row: Int[Tensor, " b"] | None) -> Side:
    """The anchors' side of negative scope: each anchor alone. Arguments as in `anchor_side`."""
    on_side = torch.unique(rows) if every_row is None else every_row
    none = (torch.zeros(0, 2, dtype=torch.int64, device=rows.device),)
    layout = Layout(_place(on_side, len(classes.of_row))[rows], len(on_side), ((1, len(rows)),), 1, none)
    return Side(on_side, classes.of_row[rows], layout)


def check_paired(labels: Int[Tensor, " b"], values: tuple[int, ...] | None = None) -> None:
    """Raises InvalidInput unless both rows of each pair (0,1), (2,3), ... have the same label.

    `values` are the labels as plain numbers, where they are known.
    """
    if values is not None and values[0::2] == values[1::2]:
        return
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


@dataclass(frozen=True)
class Plan:
    """The two sides of the search, and the indices that map its result to a table."""

    left: Side
    right: Side
    anchors_at: Int[Tensor, " a"]  # the anchors, as indices into `left.rows`
    positives_at: Int[Tensor, "a p"]  # the positives of each anchor, as indices into `right.rows`
    entries: Int[Tensor, "a p"]  # the positives, as indices into the flattened product of the two sides' rows
    same_rows: bool  # both sides have the same rows, so the diagonal of their product holds the squared norms
    symmetric: bool  # both sides are the same, so the pair of groups (h, g) is the pair (g, h) reversed
    positive_mask: Bool[Tensor, "a p"]
    negative_mask: Bool[Tensor, "r c"]
    partner: Int[Tensor, "a p"] | None  # as in `Pairs`
    groups: Int[Tensor, " r"] | None  # the left group of every row of the table; None: row i is group i
    order: Int[Tensor, " c"] | None  # the right groups sorted by class; None: they are already sorted


def plan_of(batch: Batch, scope: Scope, max_segments: int | None, *, partners: bool) -> Plan:
    """The plan for a batch with at least one anchor; `partners` is as in `expand`.

    Raises:
        InvalidInput: if the batch does not support the scope.
    """
    _check_scope(batch, scope, partners=partners)
    pattern, device = batch.pattern, batch.labels.device
    if pattern is None:
        return _plan_of(batch, scope, max_segments, partners=partners)
    make = _known_plan if pattern.entries <= largest_kept(device) else _known_plan.__wrapped__  # type: ignore[attr-defined]
    plan: Plan = make(pattern, scope, max_segments, partners, device)
    return plan


@kept
def _known_plan(pattern: Pattern, scope: Scope, max_segments: int | None, partners: bool, device: torch.device) -> Plan:
    with on_cpu():
        plan = _plan_of(pattern.batch(), scope, max_segments, partners=partners)
    return moved(plan, device)


def _plan_of(batch: Batch, scope: Scope, max_segments: int | None, *, partners: bool) -> Plan:
    index, mask = batch.positives()
    needed, of_needed, partner = batch.anchors, batch.of_anchor, None
    if partners and scope != "class_pair":
        missing, partner = batch.partners(index, mask)
        needed = torch.cat([batch.anchors, missing])
        of_needed = batch.classes.of_row[needed]
    right = _right(batch, scope, max_segments)
    left, groups = _left(batch, scope, max_segments, right, needed)
    of_left = _place(left.rows, batch.labels.shape[0])
    of_right = of_left if left.rows is right.rows else _place(right.rows, batch.gallery_labels.shape[0])
    anchors_at, positives_at = of_left[batch.anchors], of_right[index]
    return Plan(
        left=left,
        right=right,
        anchors_at=anchors_at,
        positives_at=positives_at,
        entries=anchors_at[:, None] * right.rows.shape[0] + positives_at,
        same_rows=left.rows is right.rows,
        symmetric=left is right,
        positive_mask=mask,
        negative_mask=of_needed[:, None] != torch.arange(batch.classes.label.shape[0], device=of_needed.device),
        partner=partner,
        groups=groups,
        order=torch.argsort(right.label) if len(right.layout.runs) > 1 else None,  # sides are ordered by size
    )


def _check_scope(batch: Batch, scope: Scope, *, partners: bool) -> None:
    against_others = batch.has_reference and batch.proxies is None
    if scope == "anchor":
        if batch.proxies == "anchors":
            raise InvalidInput("proxies are the anchors of this loss and have no partners; use scope='class_pair'")
        check_paired(batch.labels, numbers_of(batch.labels))
        if against_others:
            check_paired(batch.gallery_labels, numbers_of(batch.gallery_labels))
    if scope != "class_pair" and partners and against_others:
        raise InvalidInput(
            "a loss that reads both ends of a positive pair cannot be expanded by anchor against a reference; "
            "use scope='class_pair'"
        )


def _right(batch: Batch, scope: Scope, max_segments: int | None) -> Side:
    """The negatives' side. There are no points between proxies, because a point between two proxies is not learnt."""
    if batch.proxies == "gallery":
        return class_side(batch.classes, scope="class_pair", max_segments=0)
    return class_side(batch.classes, scope=scope, max_segments=max_segments)


def _left(
    batch: Batch, scope: Scope, max_segments: int | None, right: Side, needed: Int[Tensor, " r"]
) -> tuple[Side, Int[Tensor, " r"] | None]:
    """The anchors' side, and the group of each needed row (None: row i is group i)."""
    classes = batch.own_classes
    if scope != "class_pair":
        every_row = None
        if needed.shape[0] == batch.labels.shape[0]:
            every_row = right.rows if not batch.has_reference else batch.anchors if batch.every_row else None
        side = (anchor_side if scope == "anchor" else single_side)(classes, needed, every_row)
        return (replace(side, label=batch.of_anchor) if batch.has_reference else side), None
    whole = class_side(classes, scope=scope, max_segments=max_segments) if batch.has_reference else right
    of_anchor = classes.of_row[needed]
    if batch.every_row and not batch.has_reference and len(right.layout.runs) == 1:
        return right, of_anchor
    left = whole
    if not batch.every_row:
        chosen = torch.zeros_like(classes.label, dtype=torch.bool).index_fill_(0, of_anchor, True)
        left = some_classes(whole, chosen, batch.from_memory, max_segments)
    groups = _place(left.label, len(classes.label))[of_anchor]
    if batch.has_reference:
        left = replace(left, label=batch.classes.find(classes.label)[left.label])
    return left, groups


def _place(members: Int[Tensor, " s"], total: int) -> Int[Tensor, " b"]:
    """The index in `members` of each number from 0 to total - 1; 0 for a number that is not among them."""
    place = members.new_zeros(total)
    place[members] = torch.arange(members.shape[0], device=members.device)
    return place
