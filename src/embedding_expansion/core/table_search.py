"""The search for the hardest pairs with torch alone: the whole expanded table, a bounded piece at a time.

It runs wherever torch does, and where the native kernel is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.core.problem import Found, Problem, Rules, smallest_square
from embedding_expansion.core.sides import Side, interpolated

TABLE_LIMIT = 1 << 20  # entries of the expanded table that are looked at at a time: what a core's cache holds
NEVER = -1e30  # what is added to the value of a point that takes no part


@dataclass(frozen=True)
class _Points:
    """The points of all groups of one size: how to mix them, how to scale an inner product, what to add to it."""

    groups: slice
    members: slice
    k: int
    ends: Int[Tensor, "q 2"]
    weights: Float[Tensor, "q 2"]
    scale: Float[Tensor, "g q"]
    shift: Float[Tensor, "g q"] | None  # None: nothing is added to any

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(self.scale)

    def mixing(self, groups: slice, part: slice) -> Float[Tensor, "g q k"]:
        """What takes a group's members to some of its points, scaled."""
        scaled = self.scale[groups, part, None] * self.weights[part]
        dense = scaled.new_zeros(*scaled.shape[:2], self.k)
        return dense.scatter_add_(2, self.ends[part].expand(len(scaled), -1, 2), scaled)


def _points(side: Side, own: Tensor, rules: Rules) -> Iterator[_Points]:
    at = 0
    for groups, members, k, segments in side.buckets():
        count = groups.stop - groups.start
        products = own[at : at + count * k * k].reshape(count, k, k)
        at += count * k * k
        originals = k if side.originals is None else side.originals
        itself = torch.arange(originals, device=own.device)[:, None].expand(-1, 2)
        inner, inner_weights = interpolated(segments, rules.count, own.dtype)
        ends = torch.cat([itself, inner])
        weights = torch.cat([inner_weights.new_tensor([[1.0, 0.0]]).expand(originals, 2), inner_weights])
        square = _square(products, ends, weights)
        scale, shift = torch.ones_like(square), torch.zeros_like(square)
        if rules.metric == "euclidean":
            shift = (1 - square) / 2
        if rules.normalize:
            dropped = square[:, originals:] < smallest_square(own.dtype)
            scale[:, originals:] = square[:, originals:].clamp(min=smallest_square(own.dtype)).rsqrt()
            shift[:, originals:] = torch.where(dropped, NEVER, 0)
        if side.barred is not None:
            out = side.barred[members].reshape(count, k)[:, ends].all(dim=-1)
            shift = torch.where(out, NEVER, shift)
        yield _Points(groups, members, k, ends, weights, scale, shift if bool((shift != 0).any()) else None)


def _square(products: Float[Tensor, "g k k"], ends: Int[Tensor, "q 2"], weights: Float[Tensor, "q 2"]) -> Tensor:
    """Squared norms of points, (g, q)."""
    (i, j), (u, v) = ends.T, weights.T
    mixed: Tensor = u * u * products[:, i, i] + 2 * u * v * products[:, i, j] + v * v * products[:, j, j]
    return mixed


def search(problem: Problem) -> Found:
    """The hardest pairs; the first of equals wins, originals before synthetic points."""
    left, right, product = problem.left, problem.right, problem.product
    shape = len(left.size), len(right.size)
    ends = torch.zeros(*shape, 4, dtype=torch.int32, device=product.device)
    weights, value = product.new_ones(*shape, 2), product.new_zeros(*shape)
    ours = list(_points(left, problem.left_own, problem.rules))
    with torch.autocast(product.device.type, enabled=False):
        for b in _points(right, problem.right_own, problem.rules):
            for a in ours:
                if problem.symmetric and a.groups.start > b.groups.start:
                    continue
                for rows, columns in _blocks(problem, a, b):
                    hardest, q, r = (entry.T for entry in _best(problem, a, b, rows, columns))
                    at = _moved(rows, a), _moved(columns, b)
                    value[at] = hardest
                    for k, points, index in ((0, a, q), (1, b, r)):
                        ends[at][..., 2 * k : 2 * k + 2] = points.ends.int()[index]
                        weights[at][..., k] = points.weights[:, 0][index]
    if problem.symmetric:
        value = value.triu() + value.triu(1).T
    value = value.masked_fill(left.label[:, None] == right.label, 0)
    return Found(ends, weights, value, half=problem.symmetric)


def _moved(groups: slice, points: _Points) -> slice:
    return slice(points.groups.start + groups.start, points.groups.start + groups.stop)


def _blocks(problem: Problem, a: _Points, b: _Points) -> Iterator[tuple[slice, slice]]:
    """Groups of the left and of the right, as many pairs of points as the limit allows; half where it is symmetric."""
    step = max(1, TABLE_LIMIT // max(1, a.scale.numel() * len(b.ends)))
    same = problem.symmetric and a.groups == b.groups
    for first in range(0, b.count, step):
        columns = slice(first, min(b.count, first + step))
        yield slice(0, columns.stop if same else a.count), columns


def _best(
    problem: Problem, a: _Points, b: _Points, rows: slice, columns: slice
) -> tuple[Float[Tensor, "h g"], Int[Tensor, "h g"], Int[Tensor, "h g"]]:
    """For every two groups the largest value, and which point of the left and which of the right have it."""
    g, h = rows.stop - rows.start, columns.stop - columns.start
    members = problem.left.member[a.members][rows.start * a.k : rows.stop * a.k]
    across = slice(b.members.start + columns.start * b.k, b.members.start + columns.stop * b.k)
    block = problem.product[:, across].index_select(0, members).view(g, a.k, h * b.k)
    hardest = block.new_full((h, g), 2 * NEVER)
    left, right = hardest.new_zeros(h, g, dtype=torch.int64), hardest.new_zeros(h, g, dtype=torch.int64)
    for part in _parts(len(a.ends), g * h * len(b.ends)):
        mixed = torch.bmm(a.mixing(rows, part), block).view(g, -1, h, b.k).permute(2, 3, 1, 0).contiguous()
        value = torch.stack([table.amax(dim=1) for _, table in _tables(mixed, b, columns)]).amax(dim=0).view(h, -1, g)
        if a.shift is not None:
            value = value + a.shift[rows, part].T
        value, q = value.max(dim=1)
        harder = value > hardest  # not "at least": the first of equals wins
        hardest, left = torch.where(harder, value, hardest), torch.where(harder, q + part.start, left)
        of_winner = mixed.gather(2, q[:, None, None].expand(h, b.k, 1, g))
        right = torch.where(harder, _first_hardest(of_winner, b, columns), right)
    return hardest, left, right


def _parts(count: int, entries: int) -> Iterator[slice]:
    """So many points at a time that, each with so many entries, they are within the limit; or one."""
    step = max(1, TABLE_LIMIT // max(1, entries))
    return (slice(first, min(count, first + step)) for first in range(0, count, step))


def _tables(
    mixed: Float[Tensor, "h l q g"], b: _Points, columns: slice
) -> Iterator[tuple[slice, Float[Tensor, "h r qg"]]]:
    """Points of the left, as similarities to the right's members, against the right's points, some at a time."""
    rows = mixed.flatten(2)
    for part in _parts(len(b.ends), len(rows) * rows.shape[2]):
        table = torch.bmm(b.mixing(columns, part), rows)
        yield part, table if b.shift is None else table.add_(b.shift[columns, part, None])


def _first_hardest(mixed: Float[Tensor, "h l 1 g"], b: _Points, columns: slice) -> Int[Tensor, "h g"]:
    """Which of the right's points is hardest."""
    hardest = mixed.new_full((len(mixed), mixed.shape[3]), 2 * NEVER)
    winner = torch.zeros_like(hardest, dtype=torch.int64)
    for part, table in _tables(mixed, b, columns):
        value, index = table.max(dim=1)
        harder = value > hardest
        hardest, winner = torch.where(harder, value, hardest), torch.where(harder, index + part.start, winner)
    return winner


def pass_back(problem: Problem, found: Found, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Adds to `problem.product` what the gradient of the values passes on, and gives back that of each `own`."""
    left, right, rules = problem.left, problem.right, problem.rules
    gradient = gradient.masked_fill(left.label[:, None] == right.label, 0)
    rows, columns = gradient.shape
    if problem.symmetric:  # a pair and the same turned round are one
        gradient = gradient + gradient.T
        g, h = torch.triu_indices(rows, columns, offset=1, device=gradient.device, dtype=torch.int32)
    else:
        g = torch.arange(rows, device=gradient.device, dtype=torch.int32).repeat_interleave(columns)
        h = torch.arange(columns, device=gradient.device, dtype=torch.int32).repeat(rows)
    pair = g * columns + h
    gradient, value = (entry.flatten().index_select(0, pair) for entry in (gradient, found.value))
    ends, weights = (entry.flatten(0, 1).index_select(0, pair).T for entry in (found.ends, found.weights))
    x = _Ends(left, problem.left_own, g, ends[:2], weights[0], rules)
    y = _Ends(right, problem.right_own, h, ends[2:], weights[1], rules)
    inner = value - x.shift - y.shift
    scaled = gradient * x.scale * y.scale
    flat, stride = problem.product.view(-1), problem.product.shape[1]
    for row, u in x.members:
        first, weight = row * stride, scaled * u
        for column, v in y.members:
            flat.index_add_(0, first + column, weight * v)
    return x.of_own(gradient, inner), y.of_own(gradient, inner)


class _Ends:
    """The winning points of one side: their members' places and weights, squared norms, scale and shift."""

    def __init__(self, side: Side, own: Tensor, group: Tensor, ends: Tensor, u: Tensor, rules: Rules) -> None:
        # Numbers of 32 bits: the arithmetic is bound by memory. There are less members than that, and less in `own`.
        first, size, at = (entry.int().index_select(0, group) for entry in (side.first, side.size, side.own_at))
        i, j = ends
        self.own, v = own, 1 - u
        self.weights = (u * u, 2 * u * v, v * v)
        row = at + i * size
        self.places = (row + i, row + j, at + j * (size + 1))
        self.members = tuple((side.member.index_select(0, first + end), w) for end, w in ((i, u), (j, v)))
        norms = [own.index_select(0, place) for place in self.places]
        self.square = sum(norm * weight for norm, weight in zip(norms, self.weights, strict=True))
        self.again = (i != j) if rules.normalize else torch.zeros_like(i, dtype=torch.bool)
        self.scale = torch.where(self.again, self.square, 1).rsqrt()
        self.euclidean = rules.metric == "euclidean"
        self.shift = torch.where(self.again, 0, (1 - self.square) / 2) if self.euclidean else 0

    def of_own(self, gradient: Tensor, inner: Tensor) -> Tensor:
        """What the squared norms pass on to the inner products of each group with itself."""
        result = torch.zeros_like(self.own)
        unchanged = -gradient / 2 if self.euclidean else 0
        of_square = torch.where(self.again, -gradient * inner / (2 * self.square), unchanged)
        for place, weight in zip(self.places, self.weights, strict=True):
            result.index_add_(0, place, of_square * weight)
        return result
