"""The kernel for a finite n, which compares every two points of two groups.

A program loads the inner products of the ends of its left points with the ends of one right segment at a time, and goes
through the n points of that segment in registers. It multiplies and adds in the precision of the product. `tl.dot`
would multiply by matrices that are zero but for the two members of each point, and in TF32 with an error larger than
the differences between the hardest pairs.
"""
# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: SIM102

from __future__ import annotations

import triton.language as tl

from embedding_expansion.core.search.triton.points import (
    FIRST,
    GRAM_AT,
    HALF,
    ORIGINALS,
    SEGMENTS,
    SEGMENTS_AT,
    SIZE,
    entries_of,
    gram_entries,
    hardest_of,
    kernel,
    measured,
    nothing_yet,
    number_of,
    or_harder,
    square_at,
    store_pairs,
    within_norms,
)


@kernel
def mixed_entries(product, stride, row_i, row_j, u, column, mask):
    """The inner products of left points, before their scale, with right columns."""
    first = entries_of(product, stride, row_i, column, mask)
    return u * first + (1 - u) * entries_of(product, stride, row_j, column, mask)


@kernel
def search_points(
    product,
    stride,
    weight,
    n,
    left_table,
    left_member,
    left_label,
    left_segment,
    left_gram,
    barred,
    right_table,
    right_label,
    right_segment,
    right_gram,
    right_count,
    ends,
    weights,
    value,
    SYMMETRIC: tl.constexpr,
    NORMALIZE: tl.constexpr,
    EUCLIDEAN: tl.constexpr,
    BARRED: tl.constexpr,
    NEVER: tl.constexpr,
    SMALLEST: tl.constexpr,
    LEAST: tl.constexpr,
    POINTS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """The hardest pairs of one left group with GROUPS right groups, POINTS left points at a time."""
    g, h = tl.program_id(0), tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    if SYMMETRIC:
        if (tl.program_id(1) + 1) * GROUPS <= g:
            return
    there = h < right_count
    if SYMMETRIC:
        there = there & (h >= g)
    other = there & (tl.load(right_label + h, mask=there, other=0) != tl.load(left_label + g))
    first, size = number_of(left_table, g, FIRST, True), number_of(left_table, g, SIZE, True)
    originals, gram_at = number_of(left_table, g, ORIGINALS, True), number_of(left_table, g, GRAM_AT, True)
    segments_at, segments = number_of(left_table, g, SEGMENTS_AT, True), number_of(left_table, g, SEGMENTS, True)
    column, width = number_of(right_table, h, FIRST, other), number_of(right_table, h, SIZE, other)
    right_originals = number_of(right_table, h, ORIGINALS, other)
    right_at = number_of(right_table, h, GRAM_AT, other)
    list_at, right_segments = number_of(right_table, h, SEGMENTS_AT, other), number_of(right_table, h, SEGMENTS, other)
    count, per_segment = originals + n * segments, tl.maximum(n, 1)
    best, left, u, right, v = nothing_yet(GROUPS, product.dtype.element_ty, NEVER)
    for start in range(0, count, POINTS):
        point = start + tl.arange(0, POINTS)[:, None]
        inside = (point >= originals) & (point < count)
        inner = tl.where(inside, point - originals, 0)
        segment = left_segment + 2 * (segments_at + inner // per_segment)
        itself = tl.where(point < originals, point, 0)
        i = tl.load(segment, mask=inside, other=0) + itself
        j = tl.load(segment + 1, mask=inside, other=0) + itself
        weight_i = tl.load(weight + inner % per_segment, mask=inside, other=1.0)
        of_i, of_both, of_j = gram_entries(left_gram, gram_at, size, i, j, point < count)
        square = square_at(weight_i, of_i, of_both, of_j)
        scale, shift, counts = measured(square, inside, NORMALIZE, EUCLIDEAN, SMALLEST)
        counts = counts & (point < count)
        if BARRED:
            out = tl.load(barred + first + i).to(tl.int32) & tl.load(barred + first + j).to(tl.int32)
            counts = counts & (out == 0)
        row_i, row_j = tl.load(left_member + first + i), tl.load(left_member + first + j)

        similarity = tl.full((POINTS, GROUPS), 2 * NEVER, product.dtype.element_ty)
        right_ends = tl.zeros((POINTS, GROUPS), tl.int32)
        right_weight = tl.full((POINTS, GROUPS), 1.0, product.dtype.element_ty)
        for q in range(0, tl.max(right_originals, axis=0)):
            has = q < right_originals
            own = tl.load(right_gram + right_at + q * (width + 1), mask=has, other=1.0)
            right_shift = measured(own, False, False, EUCLIDEAN, SMALLEST)[1][None, :]
            has = has[None, :] & counts
            found = mixed_entries(product, stride, row_i, row_j, weight_i, column[None, :] + q, has) * scale
            found = tl.where(has, found + right_shift, 2 * NEVER)
            harder = found > similarity
            similarity = tl.where(harder, found, similarity)
            right_ends = tl.where(harder, q * (HALF + 1), right_ends)
        for e in range(0, tl.max(right_segments, axis=0)):
            has = e < right_segments
            s = tl.load(right_segment + 2 * (list_at + e), mask=has, other=0)
            t = tl.load(right_segment + 2 * (list_at + e) + 1, mask=has, other=0)
            of_s, of_s_and_t, of_t = gram_entries(right_gram, right_at, width, s, t, has)
            both = has[None, :] & counts
            first_end = mixed_entries(product, stride, row_i, row_j, weight_i, (column + s)[None, :], both) * scale
            second_end = mixed_entries(product, stride, row_i, row_j, weight_i, (column + t)[None, :], both) * scale
            for c in range(0, n):
                weight_s = tl.load(weight + c)
                right_square = square_at(weight_s, of_s, of_s_and_t, of_t)
                right_scale, right_shift, points = measured(right_square, has, NORMALIZE, EUCLIDEAN, SMALLEST)
                found = (weight_s * first_end + (1 - weight_s) * second_end) * right_scale[None, :]
                found = tl.where(both & points[None, :], found + right_shift[None, :], 2 * NEVER)
                harder = found > similarity
                similarity = tl.where(harder, found, similarity)
                right_ends = tl.where(harder, (s * HALF + t)[None, :], right_ends)
                right_weight = tl.where(harder, weight_s, right_weight)
        similarity = tl.where(counts, similarity + shift, 2 * NEVER)
        of_part = hardest_of(similarity, i * HALF + j, weight_i, right_ends, right_weight)
        best, left, u, right, v = or_harder(
            best, left, u, right, v, of_part[0], of_part[1], of_part[2], of_part[3], of_part[4]
        )
    if NORMALIZE:
        best = within_norms(best, left, left_gram, gram_at, size, right, right_gram, right_at, width, other, EUCLIDEAN)
    store_pairs(ends, weights, value, g, h, right_count, best, left, u, right, v, other, there, SYMMETRIC)
