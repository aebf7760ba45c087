"""The kernel of the backward pass, for every n: the gradients of the hardest pairs, winners held fixed."""
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: SIM102

from __future__ import annotations

import triton.language as tl

from embedding_expansion.core.search.triton.points import (
    FIRST,
    GRAM_AT,
    SIZE,
    gram_entries,
    kernel,
    measured,
    number_of,
    square_at,
)


@kernel
def gram_gradient(
    result, at, size, i, j, u, square, gradient, inner, mask, NORMALIZE: tl.constexpr, EUCLIDEAN: tl.constexpr
):
    """Adds the gradient that reaches the Gram matrices through the squared norms of points."""
    of_square = tl.zeros_like(gradient)
    if EUCLIDEAN:
        of_square = gradient * -0.5
    if NORMALIZE:
        of_square = tl.where(i != j, -gradient * inner / (2 * square), of_square)
    if NORMALIZE or EUCLIDEAN:
        v = 1 - u
        tl.atomic_add(result + at + i * size + i, of_square * u * u, mask=mask, sem="relaxed")
        tl.atomic_add(result + at + i * size + j, of_square * 2 * u * v, mask=mask & (i != j), sem="relaxed")
        tl.atomic_add(result + at + j * size + j, of_square * v * v, mask=mask & (i != j), sem="relaxed")


@kernel
def search_backward(
    to_product,
    stride,
    ends,
    weights,
    value,
    gradient,
    left_table,
    left_member,
    left_label,
    left_gram,
    to_left_gram,
    right_table,
    right_label,
    right_gram,
    to_right_gram,
    right_count,
    SYMMETRIC: tl.constexpr,
    NORMALIZE: tl.constexpr,
    EUCLIDEAN: tl.constexpr,
    SMALLEST: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """The gradients of one left group's hardest pairs with GROUPS right groups; all results are added to."""
    g, h = tl.program_id(0), tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    if SYMMETRIC:
        if (tl.program_id(1) + 1) * GROUPS <= g:
            return
    mask = h < right_count
    if SYMMETRIC:
        mask = mask & (h > g)
    mask = mask & (tl.load(right_label + h, mask=mask, other=0) != tl.load(left_label + g))
    at = g.to(tl.int64) * right_count + h
    grad = tl.load(gradient + at, mask=mask, other=0.0)
    if SYMMETRIC:  # a pair and its reverse are one
        grad += tl.load(gradient + h.to(tl.int64) * right_count + g, mask=mask, other=0.0)
    mask = mask & (grad != 0)
    i, j = tl.load(ends + at * 4, mask=mask, other=0), tl.load(ends + at * 4 + 1, mask=mask, other=0)
    s, t = tl.load(ends + at * 4 + 2, mask=mask, other=0), tl.load(ends + at * 4 + 3, mask=mask, other=0)
    u, v = tl.load(weights + at * 2, mask=mask, other=1.0), tl.load(weights + at * 2 + 1, mask=mask, other=1.0)
    first, size, gram_at = (
        number_of(left_table, g, FIRST, True),
        number_of(left_table, g, SIZE, True),
        number_of(left_table, g, GRAM_AT, True),
    )
    column, width = number_of(right_table, h, FIRST, mask), number_of(right_table, h, SIZE, mask)
    right_at = number_of(right_table, h, GRAM_AT, mask)
    of_i, of_both, of_j = gram_entries(left_gram, gram_at, size, i, j, mask)
    of_s, of_s_and_t, of_t = gram_entries(right_gram, right_at, width, s, t, mask)
    square, right_square = square_at(u, of_i, of_both, of_j), square_at(v, of_s, of_s_and_t, of_t)
    scale, shift, _ = measured(square, i != j, NORMALIZE, EUCLIDEAN, SMALLEST)
    right_scale, right_shift, _ = measured(right_square, s != t, NORMALIZE, EUCLIDEAN, SMALLEST)
    inner = tl.load(value + at, mask=mask, other=0.0) - shift - right_shift
    gram_gradient(to_left_gram, gram_at, size, i, j, u, square, grad, inner, mask, NORMALIZE, EUCLIDEAN)
    gram_gradient(to_right_gram, right_at, width, s, t, v, right_square, grad, inner, mask, NORMALIZE, EUCLIDEAN)
    scaled = grad * scale * right_scale
    row_i = tl.load(left_member + first + i, mask=mask, other=0).to(tl.int64) * stride
    row_j = tl.load(left_member + first + j, mask=mask, other=0).to(tl.int64) * stride
    tl.atomic_add(to_product + row_i + column + s, scaled * u * v, mask=mask, sem="relaxed")
    tl.atomic_add(to_product + row_i + column + t, scaled * u * (1 - v), mask=mask & (s != t), sem="relaxed")
    tl.atomic_add(to_product + row_j + column + s, scaled * (1 - u) * v, mask=mask & (i != j), sem="relaxed")
    tl.atomic_add(
        to_product + row_j + column + t, scaled * (1 - u) * (1 - v), mask=mask & (i != j) & (s != t), sem="relaxed"
    )
