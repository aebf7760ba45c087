"""The kernel for n = infinity: the hardest pair of whole segments, in the closed forms of `infinity`.

A group has two kinds of candidates. Members and the edges of holes lie at a fixed weight. Points inside a segment lie
where they are nearest to the other side. Edges are looked at only where a group of the program has one.
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
def between(u):
    """Whether u lies strictly between 0 and 1; not where it is NaN."""
    return (u > 0) & (u < 1)


@kernel
def hole_edge(first, both, second, which, SMALLEST: tl.constexpr):
    """One of the two points of a segment whose squared norm is SMALLEST, and whether it is there; see `infinity`."""
    offset, difference = second - both, first - 2 * both + second
    square = offset * offset - difference * (second - SMALLEST)
    root = tl.sqrt(tl.maximum(square, 0.0))
    u = (offset + tl.where(which == 0, -root, root)) / difference
    return u, (square >= 0) & between(u)


@kernel
def has_holes(segment, at, segments, gram, gram_at, size, SMALLEST: tl.constexpr):
    """Whether any segment of some groups has the edge of a hole."""
    found = tl.zeros_like(segments)
    for e in range(0, tl.max(segments, axis=0)):
        mask = e < segments
        i = tl.load(segment + 2 * (at + e), mask=mask, other=0)
        j = tl.load(segment + 2 * (at + e) + 1, mask=mask, other=0)
        first, both, second = gram_entries(gram, gram_at, size, i, j, mask)
        for which in tl.static_range(2):
            found = found | (mask & hole_edge(first, both, second, which, SMALLEST)[1]).to(tl.int32)
    return tl.max(found, axis=0)


@kernel
def candidate(
    c, count, members, segment, at, segments, gram, gram_at, size, INSIDE: tl.constexpr, SMALLEST: tl.constexpr
):
    """Candidate c: its ends, its weight where that is fixed, whether it is inside a segment, and whether it counts."""
    counts = c < count
    synthetic = counts
    e = c
    if not INSIDE:
        synthetic = counts & (c >= members)
        e = tl.where(synthetic, c - members, 0)
        e = tl.where(e < segments, e, e - segments)
    itself = tl.where(synthetic | (counts == 0), 0, c)
    i = tl.load(segment + 2 * (at + e), mask=synthetic, other=0) + itself
    j = tl.load(segment + 2 * (at + e) + 1, mask=synthetic, other=0) + itself
    first, both, second = gram_entries(gram, gram_at, size, i, j, counts)
    weight = tl.zeros_like(first) + 1
    if not INSIDE:
        edge, there = hole_edge(first, both, second, tl.where(c - members < segments, 0, 1), SMALLEST)
        weight = tl.where(synthetic, edge, weight)
        counts = counts & (there | (synthetic == 0))
    return i, j, weight, first, both, second, synthetic, counts


@kernel
def on_segment(first, both, second, to_first, to_second, NORMALIZE: tl.constexpr):
    """The weight at which a segment is nearest to a point with these inner products with its ends."""
    if NORMALIZE:
        u, v = second * to_first - both * to_second, first * to_second - both * to_first
        return tl.where((u > 0) & (v > 0), u / (u + v), -1.0)
    return (to_first - to_second - both + second) / (first - 2 * both + second)


@kernel
def half_angle(x, y, ratio):
    """(1 + ratio t) / 2 for the tangent t of half the angle of (x, y), in the form that does not cancel."""
    length = tl.sqrt(x * x + y * y)
    return (1 + ratio * tl.where(x < 0, (length - x) / y, y / (x + length))) / 2


@kernel
def between_arcs(a, a_both, a_second, b, b_both, b_second, ff, fs, sf, ss, LEAST: tl.constexpr):
    """The weights at which two arcs are nearest to each other; outside 0 to 1 where there is no such point."""
    a_sum, a_difference = a + 2 * a_both + a_second, a - 2 * a_both + a_second
    b_sum, b_difference = b + 2 * b_both + b_second, b - 2 * b_both + b_second
    there = (a_sum > LEAST) & (a_difference > LEAST) & (b_sum > LEAST) & (b_difference > LEAST)
    a_sum, a_difference = tl.rsqrt(tl.maximum(a_sum, LEAST)), tl.rsqrt(tl.maximum(a_difference, LEAST))
    b_sum, b_difference = tl.rsqrt(tl.maximum(b_sum, LEAST)), tl.rsqrt(tl.maximum(b_difference, LEAST))
    row, other, gap, next_gap = ff + fs, sf + ss, ff - fs, sf - ss
    of_sums, of_sum = (row + other) * a_sum * b_sum, (gap + next_gap) * a_sum * b_difference
    of_difference, of_differences = (row - other) * a_difference * b_sum, (gap - next_gap) * a_difference * b_difference
    p = of_sums * of_sums - of_differences * of_differences
    q = of_sum * of_sum - of_difference * of_difference
    u = half_angle(p + q, 2 * (of_sums * of_difference + of_sum * of_differences), a_difference / a_sum)
    v = half_angle(p - q, 2 * (of_sums * of_sum + of_difference * of_differences), b_difference / b_sum)
    return tl.where(there, u, -1.0), tl.where(there, v, -1.0)


@kernel
def between_lines(a, a_both, a_second, b, b_both, b_second, ff, fs, sf, ss):
    """The weights at which two straight segments are nearest to each other."""
    across, length, other = ff - fs - sf + ss, a - 2 * a_both + a_second, b - 2 * b_both + b_second
    from_a, from_b = (fs - ss - a_both + a_second) / length, (sf - ss - b_both + b_second) / other
    whole = 1 - across / length * (across / other)
    there = (length > 0) & (other > 0) & (whole > 0)
    u, v = (from_a + across / length * from_b) / whole, (from_b + across / other * from_a) / whole
    return tl.where(there, u, -1.0), tl.where(there, v, -1.0)


@kernel
def used(i, first, segment, at, segments, originals, barred):
    """Whether members are points: those that may be alone, and the ends of segments with an end that may be."""
    may = tl.load(barred + first + i).to(tl.int32) == 0
    is_used = (may & (i < originals)).to(tl.int32)
    for e in range(0, segments):
        s, t = tl.load(segment + 2 * (at + e)), tl.load(segment + 2 * (at + e) + 1)
        free = (tl.load(barred + first + s).to(tl.int32) & tl.load(barred + first + t).to(tl.int32)) == 0
        is_used = tl.where(((i == s) | (i == t)) & free, 1, is_used)
    return is_used == 1


@kernel
def search_segments(
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
    """The hardest pairs of one left group with GROUPS right groups, POINTS left candidates at a time."""
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
    right_at = number_of(right_table, h, GRAM_AT, other)
    list_at, right_segments = number_of(right_table, h, SEGMENTS_AT, other), number_of(right_table, h, SEGMENTS, other)
    edges, right_edges = 0, 0
    if NORMALIZE:
        edges = 2 * has_holes(
            left_segment,
            segments_at + tl.zeros((1,), tl.int32),
            segments + tl.zeros((1,), tl.int32),
            left_gram,
            gram_at,
            size,
            SMALLEST,
        )
        right_edges = 2 * has_holes(right_segment, list_at, right_segments, right_gram, right_at, width, SMALLEST)
    best, left, u, right, v = nothing_yet(GROUPS, product.dtype.element_ty, NEVER)
    # Without normalisation an inner product is bilinear: largest at the members.
    for INSIDE in tl.static_range(2 if NORMALIZE or EUCLIDEAN else 1):
        for RIGHT_INSIDE in tl.static_range(2 if NORMALIZE or EUCLIDEAN else 1):
            count = segments if INSIDE else size + edges * segments
            right_count_of = right_segments if RIGHT_INSIDE else width + right_edges * right_segments
            for start in range(0, count, POINTS):
                c = start + tl.arange(0, POINTS)[:, None]
                i, j, fixed, a, a_both, a_second, synthetic, counts = candidate(
                    c, count, size, left_segment, segments_at, segments, left_gram, gram_at, size, INSIDE, SMALLEST
                )
                if BARRED:
                    out = tl.load(barred + first + i).to(tl.int32) & tl.load(barred + first + j).to(tl.int32)
                    alone = used(i, first, left_segment, segments_at, segments, originals, barred)
                    counts = counts & ((synthetic & (out == 0)) | ((synthetic == 0) & alone))
                row_i, row_j = tl.load(left_member + first + i), tl.load(left_member + first + j)
                value_of = tl.full((POINTS, GROUPS), 2 * NEVER, product.dtype.element_ty)
                weight_of = tl.full((POINTS, GROUPS), 1.0, product.dtype.element_ty)
                right_ends = tl.zeros((POINTS, GROUPS), tl.int32)
                right_weight = tl.full((POINTS, GROUPS), 1.0, product.dtype.element_ty)
                for q in range(0, tl.max(right_count_of, axis=0)):
                    s, t, right_fixed, b, b_both, b_second, right_synthetic, right_counts = candidate(
                        q + tl.zeros_like(h),
                        right_count_of,
                        width,
                        right_segment,
                        list_at,
                        right_segments,
                        right_gram,
                        right_at,
                        width,
                        RIGHT_INSIDE,
                        SMALLEST,
                    )
                    both = counts & right_counts[None, :]
                    at_s, at_t = (column + s)[None, :], (column + t)[None, :]
                    ff, fs = (
                        entries_of(product, stride, row_i, at_s, both),
                        entries_of(product, stride, row_i, at_t, both),
                    )
                    sf, ss = (
                        entries_of(product, stride, row_j, at_s, both),
                        entries_of(product, stride, row_j, at_t, both),
                    )
                    b, b_both, b_second = b[None, :], b_both[None, :], b_second[None, :]
                    x, y = fixed + tl.zeros_like(ff), right_fixed[None, :] + tl.zeros_like(ff)
                    if INSIDE and RIGHT_INSIDE:
                        if NORMALIZE:
                            x, y = between_arcs(a, a_both, a_second, b, b_both, b_second, ff, fs, sf, ss, LEAST)
                        else:
                            x, y = between_lines(a, a_both, a_second, b, b_both, b_second, ff, fs, sf, ss)
                    elif INSIDE:
                        x = on_segment(a, a_both, a_second, y * ff + (1 - y) * fs, y * sf + (1 - y) * ss, NORMALIZE)
                    elif RIGHT_INSIDE:
                        y = on_segment(b, b_both, b_second, x * ff + (1 - x) * sf, x * fs + (1 - x) * ss, NORMALIZE)
                    if INSIDE:
                        both = both & between(x)
                    if RIGHT_INSIDE:
                        both = both & between(y)
                    found = x * (y * ff + (1 - y) * fs) + (1 - x) * (y * sf + (1 - y) * ss)
                    square, right_square = square_at(x, a, a_both, a_second), square_at(y, b, b_both, b_second)
                    scale, shift, direction = measured(square, synthetic, NORMALIZE, EUCLIDEAN, SMALLEST)
                    right_scale, right_shift, right_direction = measured(
                        right_square, right_synthetic[None, :], NORMALIZE, EUCLIDEAN, SMALLEST
                    )
                    if INSIDE:  # the edges of a hole have that squared norm, up to rounding
                        both = both & direction
                    if RIGHT_INSIDE:
                        both = both & right_direction
                    found = found * scale * right_scale + (shift + right_shift)
                    harder = both & (found > value_of)
                    value_of = tl.where(harder, found, value_of)
                    weight_of = tl.where(harder, x, weight_of)
                    right_ends = tl.where(harder, (s * HALF + t)[None, :], right_ends)
                    right_weight = tl.where(harder, y, right_weight)
                of_part = hardest_of(value_of, i * HALF + j, weight_of, right_ends, right_weight)
                best, left, u, right, v = or_harder(
                    best, left, u, right, v, of_part[0], of_part[1], of_part[2], of_part[3], of_part[4]
                )
    if NORMALIZE:
        best = within_norms(best, left, left_gram, gram_at, size, right, right_gram, right_at, width, other, EUCLIDEAN)
    store_pairs(ends, weights, value, g, h, right_count, best, left, u, right, v, other, there, SYMMETRIC)
