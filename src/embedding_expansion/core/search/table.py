"""The search in torch for a finite n: the expanded table of similarities, a bounded piece at a time, and its backward.

It runs on every device, and on the CPU where the C library is missing. `infinity` takes over the walk over pieces, and
`backward` serves every n: it needs the winners only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.core.inputs import values_exist
from embedding_expansion.core.search.problem import NEVER, SMALLEST_SQUARE, HardestPairs, Problem, Rules
from embedding_expansion.core.sides import Side, interpolated

LIMIT = 1 << 20  # entries of a table at a time on a CPU; larger tables leave a core's cache
MOST, SHARE = 1 << 28, 64  # on a GPU: entries at most, and bytes of free memory for each of them
PIECE = 1 << 18  # pairs of groups at a time in the backward pass, which bounds its memory


@dataclass(frozen=True)
class Candidates:
    """The candidate points of all groups of one size."""

    groups: slice  # these groups, among the groups of the side
    members: slice  # their members, among the members of the side
    k: int  # members of a group
    ends: Int[Tensor, "q 2"]  # the two members of the group that each point lies between; an original lies at both


@dataclass(frozen=True)
class Points(Candidates):
    """The originals and the n points of every segment: how they are mixed from members, scaled and shifted."""

    weights: Float[Tensor, "q 2"]
    scale: Float[Tensor, "g q"]  # 1 / norm where a point is normalised again, otherwise 1
    shift: Float[Tensor, "g q"] | None  # is added to an inner product; None: 0 for all points

    def mixing(self, groups: slice, part: slice) -> Float[Tensor, "g q k"]:
        """The matrices that map the members of each group to some of its points, scale included."""
        scaled = self.scale[groups, part, None] * self.weights[part]
        dense = scaled.new_zeros(*scaled.shape[:2], self.k)
        return dense.scatter_add_(2, self.ends[part].expand(len(scaled), -1, 2), scaled)


@dataclass(frozen=True)
class Block:
    """The inner products of some left groups of one size with some right groups of one size."""

    product: Float[Tensor, "g k h l"]  # of the members
    rows: slice  # the left groups, among those of their size
    columns: slice  # the right groups, among those of their size
    rules: Rules
    limit: int  # entries of a table at a time

    def parts(self, count: int, others: int) -> Iterator[slice]:
        """Splits `count` left points so that each part, times `others` right points, stays within the limit."""
        entries = self.product.shape[0] * self.product.shape[2] * others
        step = max(1, self.limit // max(1, entries))
        return (slice(first, min(count, first + step)) for first in range(0, count, step))


class HardestInBlock(NamedTuple):
    """The hardest pair of every two groups of a block: its value, its points, and the weights of their first ends."""

    value: Float[Tensor, "g h"]
    left: Int[Tensor, "g h"]
    right: Int[Tensor, "g h"]
    left_weight: Float[Tensor, "g h"]
    right_weight: Float[Tensor, "g h"]

    def or_harder(self, other: HardestInBlock) -> HardestInBlock:
        """Takes the other pair where its value is larger; of equal ones this pair stays."""
        harder = other.value > self.value
        return HardestInBlock(*(torch.where(harder, theirs, ours) for ours, theirs in zip(self, other, strict=True)))


Kind = TypeVar("Kind", bound=Candidates)


def search(problem: Problem) -> HardestPairs:
    """The hardest pairs for a finite n. Of equal pairs the first wins, originals before synthetic points."""
    return search_in_blocks(problem, _points, _hardest, limit(problem.product.device))


def limit(device: torch.device) -> int:
    """Entries of a table at a time. On a GPU few large pieces are faster, and its free memory bounds them."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return LIMIT
    reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + reusable
    return min(max(free // SHARE, LIMIT), MOST)


def search_in_blocks(
    problem: Problem,
    candidates: Callable[[Side, Tensor, Rules], Iterator[Kind]],
    hardest: Callable[[Block, Kind, Kind], HardestInBlock],
    limit: int,
) -> HardestPairs:
    """The hardest pairs, found block by block.

    Args:
        problem: the two sides and their inner products.
        candidates: the points of a side, one size of group after another.
        hardest: the hardest pairs of a block, given the candidates of both its sides.
        limit: entries of a table at a time.
    """
    left, right, product = problem.left, problem.right, problem.product
    shape = len(left.size), len(right.size)
    ends = torch.zeros(*shape, 4, dtype=torch.int32, device=product.device)
    weights, value = product.new_ones(*shape, 2), product.new_zeros(*shape)
    with torch.autocast(product.device.type, enabled=False):
        left_candidates = list(candidates(left, problem.left_gram, problem.rules))
        for b in candidates(right, problem.right_gram, problem.rules):
            for a in left_candidates:
                if problem.symmetric and a.groups.start > b.groups.start:
                    continue
                for block in _blocks(problem, a, b, limit):
                    best = hardest(block, a, b)
                    at = _offset(block.rows, a), _offset(block.columns, b)
                    ends[at] = torch.cat([a.ends.int()[best.left], b.ends.int()[best.right]], dim=-1)
                    weights[at] = torch.stack([best.left_weight, best.right_weight], dim=-1)
                    clamped = problem.rules.normalize
                    value[at] = _within_norms(problem, best.value, ends[at], at) if clamped else best.value
    if problem.symmetric:
        value = value.triu() + value.triu(1).T
    value = value.masked_fill(left.label[:, None] == right.label, 0)
    return HardestPairs(ends, weights, value, half=problem.symmetric)


def _blocks(problem: Problem, a: Candidates, b: Candidates, limit: int) -> Iterator[Block]:
    """As many right groups at a time as the limit allows; of a symmetric problem only the upper half."""
    count, others = (candidates.groups.stop - candidates.groups.start for candidates in (a, b))
    step = max(1, limit // max(1, count * len(a.ends) * len(b.ends)))
    same = problem.symmetric and a.groups == b.groups
    for first in range(0, others, step):
        columns = slice(first, min(others, first + step))
        rows = slice(0, columns.stop if same else count)
        members = problem.left.member[a.members][: rows.stop * a.k]
        across = slice(b.members.start + columns.start * b.k, b.members.start + columns.stop * b.k)
        product = problem.product[:, across].index_select(0, members)
        product = product.view(rows.stop, a.k, columns.stop - columns.start, b.k)
        yield Block(product, rows, columns, problem.rules, limit)


def _offset(groups: slice, candidates: Candidates) -> slice:
    """Converts a slice of the groups of one size to a slice of all groups of the side."""
    return slice(candidates.groups.start + groups.start, candidates.groups.start + groups.stop)


def _within_norms(problem: Problem, value: Tensor, ends: Tensor, at: tuple[slice, slice]) -> Tensor:
    """Clamps the inner products of normalised synthetic points to the product of the norms.

    Cancellation can round them beyond it. The gradient ignores the clamp, which only moves a value closer to the exact
    one.
    """
    limit: Tensor | float = 1.0
    shift: Tensor | float = 0.0
    any_synthetic = torch.zeros_like(value, dtype=torch.bool)
    sides = (problem.left, problem.left_gram, (-1, 1)), (problem.right, problem.right_gram, (1, -1))
    for k, (side, gram, shape) in enumerate(sides):
        first, synthetic = ends[..., 2 * k], ends[..., 2 * k] != ends[..., 2 * k + 1]
        start, size = (entry[at[k]].view(shape) for entry in (side.layout.gram_at, side.size))
        square = gram[start + first * (size + 1)]
        limit = limit * torch.where(synthetic, 1, square)
        if problem.rules.metric == "euclidean":
            shift = shift + torch.where(synthetic, 0, (1 - square) / 2)
        any_synthetic |= synthetic
    limit = torch.as_tensor(limit).sqrt()
    return torch.where(any_synthetic, torch.clamp(value - shift, -limit, limit) + shift, value)


def _points(side: Side, gram: Float[Tensor, " o"], rules: Rules) -> Iterator[Points]:
    """The originals and the n points of every segment, one size of group after another."""
    for (groups, members, k, segments), grams in zip(side.layout.buckets, side.by_size(gram), strict=True):
        originals = k if side.layout.originals is None else side.layout.originals
        itself = torch.arange(originals, device=gram.device)[:, None].expand(-1, 2)
        inner, inner_weights = interpolated(segments, int(rules.n), gram.dtype)
        ends = torch.cat([itself, inner])
        weights = torch.cat([inner_weights.new_tensor([[1.0, 0.0]]).expand(originals, 2), inner_weights])
        square = _square(grams, ends, weights)
        scale, shift = torch.ones_like(square), torch.zeros_like(square)
        if rules.metric == "euclidean":
            shift = (1 - square) / 2
        if rules.normalize:
            dropped = square[:, originals:] < SMALLEST_SQUARE[gram.dtype]
            scale[:, originals:] = square[:, originals:].clamp(min=SMALLEST_SQUARE[gram.dtype]).rsqrt()
            shift[:, originals:] = torch.where(dropped, NEVER, 0)
        if side.barred is not None:
            out = side.barred[members].reshape(-1, k)[:, ends].all(dim=-1)
            shift = torch.where(out, NEVER, shift)
        # Without a shift the tables need one pass less, but to look for one a GPU would wait.
        shifted = gram.device.type != "cpu" or not values_exist() or bool((shift != 0).any())
        yield Points(groups, members, k, ends, weights, scale, shift if shifted else None)


def _square(
    grams: Float[Tensor, "g k k"], ends: Int[Tensor, "q 2"], weights: Float[Tensor, "q 2"]
) -> Float[Tensor, "g q"]:
    """The squared norms of points between two members."""
    (i, j), (u, v) = ends.T, weights.T
    mixed: Tensor = u * u * grams[:, i, i] + 2 * u * v * grams[:, i, j] + v * v * grams[:, j, j]
    return mixed


def _hardest(block: Block, a: Points, b: Points) -> HardestInBlock:
    """The hardest pair of every two groups of a block, by the whole table of their points."""
    g, _, h, _ = block.product.shape
    product = block.product.flatten(2)
    best = product.new_full((h, g), 2 * NEVER)
    left, right = best.new_zeros(h, g, dtype=torch.int64), best.new_zeros(h, g, dtype=torch.int64)
    for part in block.parts(len(a.ends), len(b.ends)):
        mixed = torch.bmm(a.mixing(block.rows, part), product).view(g, -1, h, b.k).permute(2, 3, 1, 0).contiguous()
        tables = [table.amax(dim=1) for _, table in _tables(mixed, b, block)]
        value = torch.stack(tables).amax(dim=0).view(h, -1, g)
        if a.shift is not None:
            value = value + a.shift[block.rows, part].T
        value, q = value.max(dim=1)
        harder = value > best  # of equal pairs the first wins
        best, left = torch.where(harder, value, best), torch.where(harder, q + part.start, left)
        of_winner = mixed.gather(2, q[:, None, None].expand(h, b.k, 1, g))
        right = torch.where(harder, _first_hardest(of_winner, b, block), right)
    left, right = left.T, right.T
    return HardestInBlock(best.T, left, right, a.weights[:, 0][left], b.weights[:, 0][right])


def _tables(
    mixed: Float[Tensor, "h l q g"], b: Points, block: Block
) -> Iterator[tuple[slice, Float[Tensor, "h r qg"]]]:
    """The similarities of left points to the right points, some right points at a time.

    `mixed` holds the inner products of the left points with the right members.
    """
    rows = mixed.flatten(2)
    step = max(1, block.limit // max(1, len(rows) * rows.shape[2]))
    for first in range(0, len(b.ends), step):
        part = slice(first, min(len(b.ends), first + step))
        table = torch.bmm(b.mixing(block.columns, part), rows)
        yield part, table if b.shift is None else table.add_(b.shift[block.columns, part, None])


def _first_hardest(mixed: Float[Tensor, "h l 1 g"], b: Points, block: Block) -> Int[Tensor, "h g"]:
    """The index of the right point most similar to one left point of every group; in a tie, the first one."""
    best = mixed.new_full((len(mixed), mixed.shape[3]), 2 * NEVER)
    winner = torch.zeros_like(best, dtype=torch.int64)
    for part, table in _tables(mixed, b, block):
        value, index = table.max(dim=1)
        harder = value > best
        best, winner = torch.where(harder, value, best), torch.where(harder, index + part.start, winner)
    return winner


def backward(problem: Problem, found: HardestPairs, gradient: Float[Tensor, "g h"]) -> tuple[Tensor, Tensor]:
    """The backward pass of the search, for any n, with the winners held fixed.

    Args:
        problem: as for the search, but with the gradient of the product in place of `product`; it is added to.
        found: the result of the search.
        gradient: the gradient of `found.value`.

    Returns:
        The gradients of `left_gram` and `right_gram`.
    """
    left, right = problem.left, problem.right
    gradient = gradient.masked_fill(left.label[:, None] == right.label, 0)
    rows, columns = gradient.shape
    if problem.symmetric:  # a pair and its reverse are one
        gradient = gradient + gradient.T
        g, h = torch.triu_indices(rows, columns, offset=1, device=gradient.device, dtype=torch.int32)
    else:
        g = torch.arange(rows, device=gradient.device, dtype=torch.int32).repeat_interleave(columns)
        h = torch.arange(columns, device=gradient.device, dtype=torch.int32).repeat(rows)
    to_left, to_right = torch.zeros_like(problem.left_gram), torch.zeros_like(problem.right_gram)
    for some_g, some_h in zip(g.split(PIECE), h.split(PIECE), strict=True):
        x, y = _backward(problem, found, gradient, some_g, some_h)
        to_left += x
        to_right += y
    return to_left, to_right


def _backward(
    problem: Problem, found: HardestPairs, gradient: Tensor, g: Int[Tensor, " p"], h: Int[Tensor, " p"]
) -> tuple[Tensor, Tensor]:
    """The backward pass of some pairs of groups: g[i] on the left with h[i] on the right."""
    pair = g.long() * gradient.shape[1] + h  # can exceed 32 bits
    gradient, value = (entry.flatten().index_select(0, pair) for entry in (gradient, found.value))
    ends, weights = (entry.flatten(0, 1).index_select(0, pair).T for entry in (found.ends, found.weights))
    x = _WinningPoints(problem.left, problem.left_gram, g, ends[:2], weights[0], problem.rules)
    y = _WinningPoints(problem.right, problem.right_gram, h, ends[2:], weights[1], problem.rules)
    inner = value - x.shift - y.shift
    scaled = gradient * x.scale * y.scale
    flat, stride = problem.product.view(-1), problem.product.shape[1]
    for row, u in x.members:
        first, weight = row * stride, scaled * u
        for column, v in y.members:
            flat.index_add_(0, first + column, weight * v)
    return x.gram_gradient(gradient, inner), y.gram_gradient(gradient, inner)


class _WinningPoints:
    """The winning points of one side: the members they lie between, squared norms, scale and shift."""

    def __init__(self, side: Side, gram: Tensor, group: Tensor, ends: Tensor, u: Tensor, rules: Rules) -> None:
        # Indices of 32 bits, as memory bounds this arithmetic. Members and entries of `gram` are fewer than 2^31.
        per_group = side.layout.first, side.size, side.layout.gram_at
        first, size, at = (entry.int().index_select(0, group) for entry in per_group)
        i, j = ends
        self.gram, v = gram, 1 - u
        self.weights = (u * u, 2 * u * v, v * v)
        row = at + i * size
        self.entries = (row + i, row + j, at + j * (size + 1))
        self.members = tuple((side.member.index_select(0, first + end), w) for end, w in ((i, u), (j, v)))
        norms = [gram.index_select(0, entry) for entry in self.entries]
        self.square = sum(norm * weight for norm, weight in zip(norms, self.weights, strict=True))
        self.normalized = (i != j) if rules.normalize else torch.zeros_like(i, dtype=torch.bool)
        self.scale = torch.where(self.normalized, self.square, 1).rsqrt()
        self.euclidean = rules.metric == "euclidean"
        self.shift = torch.where(self.normalized, 0, (1 - self.square) / 2) if self.euclidean else 0

    def gram_gradient(self, gradient: Tensor, inner: Tensor) -> Tensor:
        """The gradient of the Gram matrices, which reaches the value through the squared norms of the points."""
        result = torch.zeros_like(self.gram)
        of_shift = -gradient / 2 if self.euclidean else 0
        of_square = torch.where(self.normalized, -gradient * inner / (2 * self.square), of_shift)
        for entry, weight in zip(self.entries, self.weights, strict=True):
            result.index_add_(0, entry, of_square * weight)
        return result
