"""The search in torch for n = infinity: the hardest pair of two whole segments, in closed form from inner products.

A segment is an arc of the unit sphere where synthetic points are normalised again, otherwise a straight line. The
hardest pair of two segments consists of two members, of a member and a point inside a segment, or of two points inside
segments. Where the ends of an arc are nearly opposite, points around its middle have no direction. This hole in the arc
has two edges, and the hardest pair may lie there. The search compares all of these points.

There is no C implementation. On a GPU a kernel of `triton/` computes the same. On a CPU the search is a small part of a
training step (docs/benchmarks.md, section 5), for an option that trains no better than n = 2 (docs/results.md, section
4).

Source: the optimum is that of Vasudeva et al., "LoOp: Looking for Optimal Hard Negative Embeddings for Deep Metric
Learning", ICCV 2021. Differs from the source: it is computed from inner products, not from the points' coordinates.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.inputs import values_exist
from embedding_expansion.core.search import table
from embedding_expansion.core.search.problem import LEAST_LENGTH, NEVER, SMALLEST_SQUARE, HardestPairs, Problem, Rules
from embedding_expansion.core.search.table import Block, Candidates, HardestInBlock, search_in_blocks
from embedding_expansion.core.sides import Side

LIMIT = 1 << 18  # entries of a table at a time on a CPU, as twenty tables share its cache; elsewhere as in `table`


def search(problem: Problem) -> HardestPairs:
    """The hardest pairs of whole segments. Of equal pairs the first wins, members before points inside segments."""
    device = problem.product.device
    return search_in_blocks(
        problem, _candidates, _hardest, LIMIT if device.type == "cpu" else table.limit(device) // 20
    )


class Segment(NamedTuple):
    """The Gram matrix of a segment's two ends; tensors that broadcast together, here and below."""

    first: Tensor
    both: Tensor
    second: Tensor

    @classmethod
    def between(cls, grams: Float[Tensor, "g k k"], ends: Int[Tensor, "q 2"]) -> Segment:
        """The segments between these members of every group, (g, q)."""
        i, j = ends.T
        return cls(grams[:, i, i], grams[:, i, j], grams[:, j, j])

    @property
    def sum(self) -> Tensor:
        """The squared norm of the ends' sum."""
        return self.first + 2 * self.both + self.second

    @property
    def difference(self) -> Tensor:
        """The squared norm of the ends' difference."""
        return self.first - 2 * self.both + self.second

    def square(self, u: Tensor) -> Tensor:
        """The squared norm of u * first + (1 - u) * second."""
        v = 1 - u
        return u * u * self.first + 2 * u * v * self.both + v * v * self.second


class Products(NamedTuple):
    """The inner products of the ends of a left segment with those of a right segment."""

    first_first: Tensor
    first_second: Tensor
    second_first: Tensor
    second_second: Tensor

    def with_right(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The inner products of the left ends with the right point v * first + (1 - v) * second."""
        first = v * self.first_first + (1 - v) * self.first_second
        return first, v * self.second_first + (1 - v) * self.second_second

    def with_left(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inner products of the right ends with the left point u * first + (1 - u) * second."""
        first = u * self.first_first + (1 - u) * self.second_first
        return first, u * self.first_second + (1 - u) * self.second_second

    def at(self, u: Tensor, v: Tensor) -> Tensor:
        """The inner product of the left point with weight u and the right point with weight v."""
        first, second = self.with_right(v)
        return u * first + (1 - u) * second


@dataclass(frozen=True)
class ArcPoints:
    """Points of one kind, in all groups of one size: the members, the points inside segments, or the edges of holes."""

    ends: Int[Tensor, "q 2"]  # the two members that each lies between; a member lies at both
    first: int  # the index of the first of them among all points of a group
    segment: Segment
    allowed: Bool[Tensor, "*s"]  # shaped like the entries of `segment` and `weight`: (g, q), or to broadcast
    weight: Float[Tensor, "*s"] | None  # of the first end; None: that of the nearest point inside the segment
    inside: bool  # of a segment, and therefore normalised again

    def part(self, groups: slice, part: slice, shape: tuple[int, ...]) -> ArcPoints:
        """Some of the points of some groups, in a shape that broadcasts."""
        segment = Segment(*(x[groups, part].reshape(shape) for x in self.segment))
        weight = None if self.weight is None else self.weight[groups, part].reshape(shape)
        allowed = self.allowed[groups, part].reshape(shape)
        return ArcPoints(self.ends[part], self.first, segment, allowed, weight, self.inside)


@dataclass(frozen=True)
class Arcs(Candidates):
    """The candidates of all groups of one size, kind by kind."""

    kinds: tuple[ArcPoints, ...]


def _candidates(side: Side, gram: Float[Tensor, " o"], rules: Rules) -> Iterator[Arcs]:
    """The candidates of a side, one size of group after another."""
    for (groups, members, k, segments), grams in zip(side.layout.buckets, side.by_size(gram), strict=True):
        itself = torch.arange(k, device=gram.device)
        barred = torch.zeros_like(grams[:, 0], dtype=torch.bool)
        if side.barred is not None:
            barred = side.barred[members].reshape(-1, k)
        free = ~barred[:, segments].all(dim=-1)
        uses = (~barred & (itself < (k if side.layout.originals is None else side.layout.originals))).int()
        for end in segments.T:  # the ends of an allowed segment are points of it
            uses = uses.index_add(1, end, free.int())
        pairs, between = itself[:, None].expand(-1, 2), Segment.between(grams, segments)
        whole = torch.ones_like(grams[:, 0])
        kinds = [ArcPoints(pairs, 0, Segment.between(grams, pairs), uses > 0, whole, inside=False)]
        ends = [pairs]
        if rules.normalize or rules.metric == "euclidean":  # otherwise it is bilinear: largest at the members
            kinds.append(ArcPoints(segments, k, between, free, None, inside=True))
            ends.append(segments)
        if rules.normalize:
            edges = torch.cat(hole_edges(between, SMALLEST_SQUARE[gram.dtype]), dim=1)
            allowed = free.repeat(1, 2) & ~edges.isnan()
            if gram.device.type != "cpu" or not values_exist() or bool(allowed.any()):  # a GPU would wait
                twice = segments.repeat(2, 1), Segment(*(x.repeat(1, 2) for x in between))
                kinds.append(ArcPoints(twice[0], k + len(segments), twice[1], allowed, edges, inside=True))
                ends.append(twice[0])
        yield Arcs(groups, members, k, torch.cat(ends), tuple(kinds))


def _hardest(block: Block, a: Arcs, b: Arcs) -> HardestInBlock:
    """The hardest pair of every two groups of a block, kind by kind."""
    g, _, h, _ = block.product.shape
    value = block.product.new_full((g, h), 2 * NEVER)
    zero, one = value.new_zeros(g, h, dtype=torch.int64), torch.ones_like(value)
    best = HardestInBlock(value, zero, zero, one, one)
    for x, y in itertools.product(a.kinds, b.kinds):
        for part in block.parts(len(x.ends), len(y.ends)) if len(y.ends) else ():
            best = best.or_harder(_hardest_of_kinds(block, x, y, part))
    return best


def _hardest_of_kinds(block: Block, x: ArcPoints, y: ArcPoints, part: slice) -> HardestInBlock:
    """The hardest pair of every two groups between some left points of one kind and all right points of one kind."""
    (g, _, h, _), rules = block.product.shape, block.rules
    q, r = part.stop - part.start, len(y.ends)
    a, b = x.part(block.rows, part, (g, q, 1, 1)), y.part(block.columns, slice(None), (1, 1, h, r))
    (i, j), (s, t) = a.ends.T, b.ends.T
    first, second = block.product[:, i], block.product[:, j]
    m = Products(first[..., s], first[..., t], second[..., s], second[..., t])
    u, v = (weight.expand_as(m.first_first) for weight in _weights(a, b, m, rules))
    value, shift, allowed = m.at(u, v), torch.zeros_like(m.first_first), a.allowed & b.allowed
    for points, weight in ((a, u), (b, v)):
        square = points.segment.square(weight)
        if rules.normalize and points.inside:
            least = SMALLEST_SQUARE[square.dtype]
            value = value * square.clamp(min=least).rsqrt()
            if points.weight is None:  # the edges of a hole have that squared norm, up to rounding
                allowed = allowed & (square >= least)
        elif rules.metric == "euclidean":
            shift = shift + (1 - square) / 2
    value = torch.where(allowed & value.isfinite(), value + shift, 2 * NEVER)
    value, at = value.permute(0, 2, 1, 3).reshape(g, h, q * r).max(dim=2)
    u, v = (w.permute(0, 2, 1, 3).reshape(g, h, q * r).gather(2, at[..., None])[..., 0] for w in (u, v))
    return HardestInBlock(value, at // r + part.start + x.first, at % r + y.first, u, v)


def _weights(a: ArcPoints, b: ArcPoints, m: Products, rules: Rules) -> tuple[Tensor, Tensor]:
    """The weights of the first ends of the left and the right points, of the nearest ones where they are not fixed."""
    u, v = a.weight, b.weight
    if u is None and v is None:
        return (between_arcs if rules.normalize else between_lines)(a.segment, b.segment, m)
    to_point = on_arc if rules.normalize else on_line
    if u is None and v is not None:
        return to_point(a.segment, *m.with_right(v)), v
    if v is None and u is not None:
        return u, to_point(b.segment, *m.with_left(u))
    assert u is not None
    assert v is not None
    return u, v


# The closed forms. Each returns weights of first ends, NaN where no such point lies strictly between the ends.


def inside(u: Tensor) -> Tensor:
    """The weight u where it lies strictly between 0 and 1, otherwise NaN."""
    return torch.where((u > 0) & (u < 1), u, torch.nan)


def on_arc(arc: Segment, first: Tensor, second: Tensor) -> Tensor:
    """The point of an arc nearest to one whose inner products with its ends are `first` and `second`.

    In the plane of the arc it is G^-1 m, for the Gram matrix G of the ends and m = (first, second). Its weights are
    proportional to (G22 m1 - G12 m2, G11 m2 - G12 m1), and it lies on the arc where both are positive.
    """
    u, v = arc.second * first - arc.both * second, arc.first * second - arc.both * first
    return inside(u / (u + v)).where((u > 0) & (v > 0), torch.nan)


def hole_edges(arc: Segment, square: float) -> tuple[Tensor, Tensor]:
    """The two points whose squared norm, before normalisation, is `square`; between them it is smaller."""
    offset = arc.second - arc.both
    root = (offset * offset - arc.difference * (arc.second - square)).sqrt()  # NaN where no norm is so small
    return inside((offset - root) / arc.difference), inside((offset + root) / arc.difference)


def on_line(line: Segment, first: Tensor, second: Tensor) -> Tensor:
    """The point of a straight segment nearest to one whose inner products with its ends are `first` and `second`."""
    return inside((first - second - line.both + line.second) / line.difference)


def between_arcs(a: Segment, b: Segment, m: Products) -> tuple[Tensor, Tensor]:
    """The nearest points strictly inside two arcs.

    In orthonormal bases along the ends' sum and difference, m becomes a 2 x 2 matrix. Its leading singular vectors are
    the only directions that maximise the inner product; their angles must lie within the arcs.
    """
    least = LEAST_LENGTH[a.both.dtype]
    a_sum, a_difference, b_sum, b_difference = (
        square.where(square > least, torch.nan).rsqrt() for square in (a.sum, a.difference, b.sum, b.difference)
    )
    row, other = m.first_first + m.first_second, m.second_first + m.second_second
    gap, next_gap = m.first_first - m.first_second, m.second_first - m.second_second
    ss, sd = (row + other) * a_sum * b_sum, (gap + next_gap) * a_sum * b_difference
    ds, dd = (row - other) * a_difference * b_sum, (gap - next_gap) * a_difference * b_difference
    p, q = ss * ss - dd * dd, sd * sd - ds * ds
    u = _half_angle(p + q, 2 * (ss * ds + sd * dd), a_difference / a_sum)
    return u, _half_angle(p - q, 2 * (ss * sd + ds * dd), b_difference / b_sum)


def _half_angle(x: Tensor, y: Tensor, ratio: Tensor) -> Tensor:
    """(1 + ratio t) / 2 for the tangent t of half the angle of (x, y), in the form that does not cancel."""
    length = (x * x + y * y).sqrt()
    tangent = torch.where(x < 0, (length - x) / y, y / (x + length))
    return inside((1 + ratio * tangent) / 2)


def between_lines(a: Segment, b: Segment, m: Products) -> tuple[Tensor, Tensor]:
    """The nearest points strictly inside two straight segments, where the line between them is orthogonal to both."""
    across = m.first_first - m.first_second - m.second_first + m.second_second
    # Divided by each squared length in turn, as their product may overflow single precision.
    length, other = (square.where(square > 0, torch.nan) for square in (a.difference, b.difference))
    from_a = (m.first_second - m.second_second - a.both + a.second) / length
    from_b = (m.second_first - m.second_second - b.both + b.second) / other
    whole = 1 - across / length * (across / other)
    u, v = from_a + across / length * from_b, from_b + across / other * from_a
    whole = whole.where(whole > 0, torch.nan)
    return inside(u / whole), inside(v / whole)
