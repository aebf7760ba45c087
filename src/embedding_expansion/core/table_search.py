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

TABLE_LIMIT = 1 << 22  # entries of the expanded table that are looked at at a time: 16 MiB in float32
NEVER = -1e30  # what is added to the value of a point that takes no part


@dataclass(frozen=True)
class _Points:
    """The points of all groups of one size: how to mix them, how to scale an inner product, what to add to it."""

    groups: slice
    members: slice
    k: int
    ends: Int[Tensor, "q 2"]
    weights: Float[Tensor, "q 2"]
    scale: Float[Tensor, "q g"]
    shift: Float[Tensor, "q g"] | None  # None: nothing is added to any

    @property
    def mixing(self) -> Float[Tensor, "q k"]:
        """The weights as a dense matrix that takes members to points."""
        return self.weights.new_zeros(len(self.ends), self.k).scatter_add_(1, self.ends, self.weights)


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
            dropped = square[originals:] < smallest_square(own.dtype)
            scale[originals:] = square[originals:].clamp(min=smallest_square(own.dtype)).rsqrt()
            shift[originals:] = torch.where(dropped, NEVER, 0)
        if side.barred is not None:
            out = side.barred[members].reshape(count, k)[:, ends].all(dim=-1).T
            shift = torch.where(out, NEVER, shift)
        yield _Points(groups, members, k, ends, weights, scale, shift if bool((shift != 0).any()) else None)


def _square(products: Float[Tensor, "g k k"], ends: Int[Tensor, "q 2"], weights: Float[Tensor, "q 2"]) -> Tensor:
    """Squared norms of points, (q, g)."""
    (i, j), (u, v) = ends.T, weights.T
    mixed: Tensor = u * u * products[:, i, i] + 2 * u * v * products[:, i, j] + v * v * products[:, j, j]
    return mixed.T.contiguous()


def search(problem: Problem) -> Found:
    """The hardest pairs; the first of equals wins, originals before synthetic points."""
    left, right, product = problem.left, problem.right, problem.product
    shape = len(left.size), len(right.size)
    ends = torch.zeros(*shape, 4, dtype=torch.int32, device=product.device)
    weights, value = product.new_ones(*shape, 2), product.new_zeros(*shape)
    theirs = list(_points(right, problem.right_own, problem.rules))
    with torch.autocast(product.device.type, enabled=False):
        for a in _points(left, problem.left_own, problem.rules):
            for b in theirs:
                if problem.symmetric and b.groups.start < a.groups.start:
                    continue
                for rows, columns, block in _blocks(problem, a, b):
                    hardest, q, r = _best(block, a, b, rows, columns)
                    at = (slice(a.groups.start + rows.start, a.groups.start + rows.stop), _moved(columns, b))
                    value[at] = hardest
                    ends[at] = torch.cat([a.ends[q], b.ends[r]], dim=-1).int()
                    weights[at] = torch.stack([a.weights[q, 0], b.weights[r, 0]], dim=-1)
    if problem.symmetric:
        upper = torch.ones_like(value, dtype=torch.bool).triu()
        value = torch.where(upper, value, value.T)
        ends = torch.where(upper[..., None], ends, ends.transpose(0, 1)[..., [2, 3, 0, 1]])
        weights = torch.where(upper[..., None], weights, weights.transpose(0, 1).flip(-1))
    value = value.masked_fill(left.label[:, None] == right.label, 0)
    order = torch.argsort(left.place)[:, None], torch.argsort(right.place)
    return Found(ends[order], weights[order], value[order])


def _moved(columns: slice, points: _Points) -> slice:
    return slice(points.groups.start + columns.start, points.groups.start + columns.stop)


def _blocks(problem: Problem, a: _Points, b: _Points) -> Iterator[tuple[slice, slice, Float[Tensor, "k l g h"]]]:
    """Inner products of the members of some groups with those of others, as many as the limit allows."""
    g, h = a.groups.stop - a.groups.start, b.groups.stop - b.groups.start
    step = max(1, min(g, TABLE_LIMIT // max(1, len(b.ends) * h)))
    same = problem.symmetric and a.groups == b.groups
    for i in range(0, g, step):
        rows, columns = slice(i, min(g, i + step)), slice(i if same else 0, h)
        members = problem.left.member[a.members.start + rows.start * a.k : a.members.start + rows.stop * a.k]
        across = slice(b.members.start + columns.start * b.k, b.members.stop)
        block = problem.product[:, across].index_select(0, members)
        block = block.reshape(rows.stop - rows.start, a.k, columns.stop - columns.start, b.k)
        yield rows, columns, block.permute(1, 3, 0, 2).contiguous()


def _best(
    block: Float[Tensor, "k l g h"], a: _Points, b: _Points, rows: slice, columns: slice
) -> tuple[Float[Tensor, "g h"], Int[Tensor, "g h"], Int[Tensor, "g h"]]:
    """For every two groups the largest value, and which point of the left and which of the right have it."""
    k, members, g, h = block.shape
    hardest = block.new_full((g, h), 2 * NEVER)
    winner = torch.zeros(g, h, dtype=torch.int64, device=block.device)
    step = max(1, TABLE_LIMIT // (g * h * len(b.ends)))  # a single pair of large classes is over the limit by itself
    for first in range(0, len(a.ends), step):
        part = slice(first, first + step)
        mixed = (a.mixing[part] @ block.view(k, -1)).view(-1, members, g, h) * a.scale[part, None, rows, None]
        table = _table(mixed, b, columns).amax(dim=1)
        if a.shift is not None:
            table = table + a.shift[part, rows, None]
        value, index = table.max(dim=0)
        harder = value > hardest  # not "at least": the first of equals wins
        hardest = torch.where(harder, value, hardest)
        winner = torch.where(harder, index + first, winner)
    ends, weights = a.ends[winner], a.weights[winner]
    place = torch.arange(g * h, device=block.device).view(g, h)
    flat = block.permute(0, 2, 3, 1).reshape(k, g * h, members)
    row = (flat[ends[..., i], place] * weights[..., i, None] for i in (0, 1))
    scale = a.scale[:, rows].T[torch.arange(g, device=block.device)[:, None], winner]
    of_winner = sum(row).view(g, h, members).permute(2, 0, 1) * scale  # type: ignore[union-attr]
    return hardest, winner, _table(of_winner[None], b, columns)[0].argmax(dim=0)


def _table(rows: Float[Tensor, "q l g h"], b: _Points, columns: slice) -> Float[Tensor, "q r g h"]:
    """Points of the left, as similarities to the right's members, against the right's points."""
    q, members, g, h = rows.shape
    table = (b.mixing @ rows.reshape(q, members, g * h)).view(q, -1, g, h)
    table.mul_(b.scale[:, None, columns])
    return table if b.shift is None else table.add_(b.shift[:, None, columns])


def pass_back(problem: Problem, found: Found, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Adds to `problem.product` what the gradient of the values passes on, and gives back that of each `own`."""
    left, right, rules = problem.left, problem.right, problem.rules
    by_row, by_column = torch.argsort(left.place), torch.argsort(right.place)
    gradient = gradient.masked_fill(left.label[by_row][:, None] == right.label[by_column], 0)
    sides = []
    for side, own, which, order in (
        (left, problem.left_own, 0, by_row[:, None]),
        (right, problem.right_own, 1, by_column),
    ):
        i, j = found.ends[..., 2 * which].long(), found.ends[..., 2 * which + 1].long()
        sides.append(_End(side, own, i, j, found.weights[..., which], order, rules))
    x, y = sides
    inner = found.value - x.shift - y.shift
    scaled = gradient * x.scale * y.scale
    flat, stride = problem.product.view(-1), problem.product.shape[1]
    for row, u in x.members:
        for column, v in y.members:
            flat.index_add_(0, (row * stride + column).flatten(), (scaled * u * v).flatten())
    return x.of_own(gradient, inner), y.of_own(gradient, inner)


class _End:
    """The winning points of one side: their members' places and weights, squared norms, scale and shift."""

    def __init__(self, side: Side, own: Tensor, i: Tensor, j: Tensor, u: Tensor, order: Tensor, rules: Rules) -> None:
        first, size, at = side.first[order], side.size[order], side.own_at[order]
        self.own = own
        self.weights = (u * u, 2 * u * (1 - u), (1 - u) * (1 - u))
        self.places = (at + i * size + i, at + i * size + j, at + j * size + j)
        self.members = ((side.member[first + i], u), (side.member[first + j], 1 - u))
        self.square = sum(own[place] * weight for place, weight in zip(self.places, self.weights, strict=True))
        again = (i != j) if rules.normalize else torch.zeros_like(i, dtype=torch.bool)
        self.again, self.euclidean = again, rules.metric == "euclidean"
        self.scale = torch.where(again, self.square, 1).rsqrt()
        shifted = torch.where(again, 0, (1 - self.square) / 2)
        self.shift = shifted if self.euclidean else torch.zeros_like(shifted)

    def of_own(self, gradient: Tensor, inner: Tensor) -> Tensor:
        """What the squared norms pass on to the inner products of each group with itself."""
        result = torch.zeros_like(self.own)
        unchanged = -gradient / 2 if self.euclidean else torch.zeros_like(gradient)
        of_square = torch.where(self.again, -gradient * inner / (2 * self.square), unchanged)
        for place, weight in zip(self.places, self.weights, strict=True):
            result.index_add_(0, place.flatten(), (of_square * weight).flatten())
        return result
