"""The nearest points of two arcs of the sphere, or of two straight segments, from inner products of their ends.

Elementwise: every function takes tensors that broadcast together. A point of a segment is told by the weight u of its
first end, 0 < u < 1; the value is NaN where there is no such point, so that the nearest one is an end.

Source: the optimum is that of Vasudeva et al., "LoOp: Looking for Optimal Hard Negative Embeddings for Deep Metric
Learning", ICCV 2021. Differs from the source: it is found from inner products, not from the points' coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from embedding_expansion.core.search.problem import least_length


class Segment(NamedTuple):
    """The inner products of a segment's ends with themselves."""

    first: Tensor
    both: Tensor
    second: Tensor

    @property
    def sum(self) -> Tensor:
        """The squared norm of the ends' sum."""
        return self.first + 2 * self.both + self.second

    @property
    def difference(self) -> Tensor:
        """The squared norm of the ends' difference."""
        return self.first - 2 * self.both + self.second

    def square(self, u: Tensor) -> Tensor:
        """The squared norm of the point whose first end has the weight u."""
        v = 1 - u
        return u * u * self.first + 2 * u * v * self.both + v * v * self.second


class Products(NamedTuple):
    """The inner products of the ends of one segment with those of another."""

    first_first: Tensor
    first_second: Tensor
    second_first: Tensor
    second_second: Tensor

    def with_right(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the left's ends with a point of the right."""
        first = v * self.first_first + (1 - v) * self.first_second
        return first, v * self.second_first + (1 - v) * self.second_second

    def with_left(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the right's ends with a point of the left."""
        first = u * self.first_first + (1 - u) * self.second_first
        return first, u * self.first_second + (1 - u) * self.second_second

    def at(self, u: Tensor, v: Tensor) -> Tensor:
        """The inner product of two points."""
        first, second = self.with_right(v)
        return u * first + (1 - u) * second


def inside(u: Tensor) -> Tensor:
    """U where it is between the ends; NaN elsewhere."""
    return torch.where((u > 0) & (u < 1), u, torch.nan)


def on_arc(arc: Segment, first: Tensor, second: Tensor) -> Tensor:
    """The point of an arc nearest to one whose inner products with its ends are `first` and `second`.

    In the plane of the arc it is G^-1 m, for the inner products G of the ends and m = (first, second): its weights are
    proportional to (G22 m1 - G12 m2, G11 m2 - G12 m1), and it lies on the arc where both are above 0.
    """
    u, v = arc.second * first - arc.both * second, arc.first * second - arc.both * first
    return inside(u / (u + v)).where((u > 0) & (v > 0), torch.nan)


def edges(arc: Segment, square: float) -> tuple[Tensor, Tensor]:
    """The two points whose squared norm, before they are normalised, is `square`; nearer to the middle it is less."""
    offset = arc.second - arc.both
    root = (offset * offset - arc.difference * (arc.second - square)).sqrt()  # NaN where no point is so near to 0
    return inside((offset - root) / arc.difference), inside((offset + root) / arc.difference)


def on_line(line: Segment, first: Tensor, second: Tensor) -> Tensor:
    """The point of a straight segment nearest to one whose inner products with its ends are `first` and `second`."""
    return inside((first - second - line.both + line.second) / line.difference)


def between_arcs(a: Segment, b: Segment, m: Products) -> tuple[Tensor, Tensor]:
    """The nearest points inside two arcs.

    In orthonormal bases along the ends' sum and difference, m becomes a 2 x 2 matrix. Its leading singular vectors are
    the only directions where the inner product is at a maximum; their angles must lie within the arcs.
    """
    least = least_length(a.both.dtype)
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
    """The nearest points inside two straight segments: where the line between them is at right angles to both."""
    across = m.first_first - m.first_second - m.second_first + m.second_second
    # Over the squared lengths, as their product may be too large for single precision.
    length, other = (square.where(square > 0, torch.nan) for square in (a.difference, b.difference))
    from_a = (m.first_second - m.second_second - a.both + a.second) / length
    from_b = (m.second_first - m.second_second - b.both + b.second) / other
    whole = 1 - across / length * (across / other)
    u, v = from_a + across / length * from_b, from_b + across / other * from_a
    whole = whole.where(whole > 0, torch.nan)
    return inside(u / whole), inside(v / whole)
