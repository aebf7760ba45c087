"""Parts that the kernels share: the points of a group, and what is kept of the hardest pairs.

A program of a kernel takes one left group and several right groups. Its tensors have the points of the left group on
one axis, (p, 1), and the right groups on the other, (1, h). Triton reads the source of these functions and knows its
own types only, so that they are not annotated.
"""
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

#: The columns of `Layout.table`, which has a row for each group.
FIRST, SIZE, ORIGINALS, SEGMENTS_AT, SEGMENTS, GRAM_AT, COLUMNS = (tl.constexpr(column) for column in range(7))
HALF = tl.constexpr(1 << 15)  # two members as one number: the first times this, plus the second


def kernel(function: Callable[..., Any]) -> Any:
    """`triton.jit` of the function itself, without the wrapper of an import hook."""
    return triton.jit(inspect.unwrap(function))


@kernel
def number_of(table, g, column: tl.constexpr, mask):
    """One number of each group; 0 where the mask is False."""
    return tl.load(table + g * COLUMNS + column, mask=mask, other=0)


@kernel
def gram_entries(gram, at, size, i, j, mask):
    """The inner products of two members: of the first with itself, of both, of the second with itself."""
    first = tl.load(gram + at + i * size + i, mask=mask, other=1.0)
    both = tl.load(gram + at + i * size + j, mask=mask, other=1.0)
    second = tl.load(gram + at + j * size + j, mask=mask, other=1.0)
    return first, both, second


@kernel
def square_at(u, first, both, second):
    """The squared norm of u * first + (1 - u) * second."""
    v = 1 - u
    return u * u * first + 2 * u * v * both + v * v * second


@kernel
def measured(square, synthetic, NORMALIZE: tl.constexpr, EUCLIDEAN: tl.constexpr, SMALLEST: tl.constexpr):
    """The scale and the shift of points, and whether they have a direction."""
    scale, shift = tl.zeros_like(square) + 1, tl.zeros_like(square)
    counts = square == square
    if EUCLIDEAN:
        shift = (1 - square) * 0.5
    if NORMALIZE:
        scale = tl.where(synthetic, tl.rsqrt(tl.maximum(square, SMALLEST)), scale)
        shift = tl.where(synthetic, 0.0, shift)
        counts = (square >= SMALLEST) | (synthetic == 0)
    return scale, shift, counts


@kernel
def entries_of(product, stride, row, column, mask):
    """The inner products of left rows with right columns."""
    return tl.load(product + row.to(tl.int64) * stride + column, mask=mask, other=0.0)


@kernel
def nothing_yet(count: tl.constexpr, dtype: tl.constexpr, NEVER: tl.constexpr):
    """The hardest pairs before any is found: values, left ends and weights, right ends and weights."""
    ends, weight = tl.zeros((count,), tl.int32), tl.full((count,), 1.0, dtype)
    return tl.full((count,), 2 * NEVER, dtype), ends, weight, ends, weight


@kernel
def hardest_of(value, ends, weight, right_ends, right_weight):
    """Of each right group the hardest pair with any left point; of equal ones that of the first left point.

    `ends` and `weight` are of the left points, (p, 1); the others are (p, h).
    """
    found = tl.max(value, axis=0)
    point = tl.arange(0, value.shape[0])[:, None]
    winner = tl.min(tl.where(value == found[None, :], point, value.shape[0] - 1), axis=0)
    wins = point == winner[None, :]
    left, right = tl.sum(tl.where(wins, ends, 0), axis=0), tl.sum(tl.where(wins, right_ends, 0), axis=0)
    u, v = tl.sum(tl.where(wins, weight, 0.0), axis=0), tl.sum(tl.where(wins, right_weight, 0.0), axis=0)
    return found, left, u, right, v


@kernel
def or_harder(value, left, u, right, v, other_value, other_left, other_u, other_right, other_v):
    """The other pairs where their value is larger; of equal ones these stay."""
    harder = other_value > value
    value, left, u = (
        tl.where(harder, other_value, value),
        tl.where(harder, other_left, left),
        tl.where(harder, other_u, u),
    )
    return value, left, u, tl.where(harder, other_right, right), tl.where(harder, other_v, v)


@kernel
def own_square(gram, at, size, ends, mask):
    """Whether a point is synthetic, and the squared norm of a member; 1 for a synthetic point, normalised again."""
    i = ends // HALF
    synthetic = i != ends % HALF
    square = tl.load(gram + at + i * (size + 1), mask=mask, other=1.0)
    return synthetic, tl.where(synthetic, 1.0, square)


@kernel
def within_norms(
    value, left, left_gram, left_at, left_size, right, right_gram, right_at, right_size, mask, EUCLIDEAN: tl.constexpr
):
    """The inner products of points that are normalised again, clamped to the product of the norms; see `table`."""
    is_left, square = own_square(left_gram, left_at, left_size, left, mask)
    is_right, right_square = own_square(right_gram, right_at, right_size, right, mask)
    limit, shift = tl.sqrt(square * right_square), tl.zeros_like(value)
    if EUCLIDEAN:
        shift = (1 - square) * 0.5 + (1 - right_square) * 0.5
    within = tl.minimum(tl.maximum(value - shift, -limit), limit) + shift
    return tl.where(is_left | is_right, within, value)


@kernel
def store_pairs(ends, weights, value, g, h, count, found, left, u, right, v, other, mask, SYMMETRIC: tl.constexpr):
    """Stores the hardest pairs of left group g with right groups h; 0 within a class."""
    at = g.to(tl.int64) * count + h
    tl.store(ends + at * 4, left // HALF, mask=mask)
    tl.store(ends + at * 4 + 1, left % HALF, mask=mask)
    tl.store(ends + at * 4 + 2, right // HALF, mask=mask)
    tl.store(ends + at * 4 + 3, right % HALF, mask=mask)
    tl.store(weights + at * 2, u, mask=mask)
    tl.store(weights + at * 2 + 1, v, mask=mask)
    found = tl.where(other, found, 0.0)
    tl.store(value + at, found, mask=mask)
    if SYMMETRIC:
        tl.store(value + h.to(tl.int64) * count + g, found, mask=mask)
