"""The search for the hardest pairs where n is infinite, with torch alone: the closed form for every two segments.

A pair of points is hardest at one of: two members, a member and a point inside a segment, two points inside segments.
All are computed from inner products (see nearest.py) and held against each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.search import nearest
from embedding_expansion.core.search.candidates import Block, Hardest, Offer
from embedding_expansion.core.search.nearest import Products, Segment
from embedding_expansion.core.search.problem import NEVER, Rules, smallest_square
from embedding_expansion.core.sides import Side


@dataclass(frozen=True)
class Spots:
    """The members, or the segments, of all groups of one size: a member is a segment of no length."""

    ends: Int[Tensor, "q 2"]
    first: int  # where they stand among all points of a group
    own: Segment  # each entry (g, q)
    allowed: Bool[Tensor, "g q"]
    are_segments: bool

    def part(self, groups: slice, part: slice, shape: tuple[int, ...]) -> tuple[Segment, Bool[Tensor, ...]]:
        """Some of them, of some groups, in a shape that broadcasts; and which of them take part."""
        return Segment(*(x[groups, part].reshape(shape) for x in self.own)), self.allowed[groups, part].reshape(shape)


@dataclass(frozen=True)
class Arcs(Offer):
    """Members, and all that lies between them."""

    of_members: Spots
    of_segments: Spots


def offers(side: Side, own: Float[Tensor, " o"], _: Rules) -> Iterator[Arcs]:
    """The points of a side, a size of groups at a time; `own` as in `Problem`."""
    for (groups, members, k, segments), products in zip(side.buckets(), side.by_size(own), strict=True):
        itself = torch.arange(k, device=own.device)
        barred = torch.zeros_like(products[:, 0], dtype=torch.bool)
        if side.barred is not None:
            barred = side.barred[members].reshape(-1, k)
        free = ~barred[:, segments].all(dim=-1)
        there = (~barred & (itself < (k if side.originals is None else side.originals))).int()
        for end in segments.T:  # the ends of a segment that takes part are points of it
            there = there.index_add(1, end, free.int())
        pairs = itself[:, None].expand(-1, 2)
        of_members = Spots(pairs, 0, _own(products, pairs), there > 0, are_segments=False)
        of_segments = Spots(segments, k, _own(products, segments), free, are_segments=True)
        yield Arcs(groups, members, k, torch.cat([pairs, segments]), of_members, of_segments)


def _own(products: Float[Tensor, "g k k"], ends: Int[Tensor, "q 2"]) -> Segment:
    i, j = ends.T
    return Segment(products[:, i, i], products[:, i, j], products[:, j, j])


def hardest(block: Block, a: Arcs, b: Arcs) -> Hardest:
    """The hardest pair of every two groups; the first of equals wins, members before points inside segments."""
    g, _, h, _ = block.product.shape
    value = block.product.new_full((g, h), 2 * NEVER)
    nobody, whole = value.new_zeros(g, h, dtype=torch.int64), torch.ones_like(value)
    best = Hardest(value, nobody, nobody, whole, whole)
    rules = block.rules
    pairs = [(a.of_members, b.of_members)]
    if rules.normalize or rules.metric == "euclidean":  # else it is bilinear: largest at the ends
        pairs += [(a.of_members, b.of_segments), (a.of_segments, b.of_members), (a.of_segments, b.of_segments)]
    for x, y in pairs:
        for part in block.parts(len(x.ends), len(y.ends)) if len(y.ends) else ():
            best = best.or_harder(_hardest(block, x, y, part))
    return best


def _hardest(block: Block, x: Spots, y: Spots, part: slice) -> Hardest:
    """Among some of one kind of points of the left, and all of one kind of the right."""
    (g, _, h, _), rules = block.product.shape, block.rules
    q, r = part.stop - part.start, len(y.ends)
    a, a_there = x.part(block.rows, part, (g, q, 1, 1))
    b, b_there = y.part(block.columns, slice(None), (1, 1, h, r))
    (i, j), (s, t) = x.ends[part].T, y.ends.T
    first, second = block.product[:, i], block.product[:, j]
    m = Products(first[..., s], first[..., t], second[..., s], second[..., t])
    u, v = _weights(a, b, m, rules, (x.are_segments, y.are_segments))
    value, shift, there = m.at(u, v), torch.zeros_like(u), a_there & b_there
    for segment, weight, is_segment in ((a, u, x.are_segments), (b, v, y.are_segments)):
        square = segment.square(weight)
        if rules.normalize and is_segment:
            value, there = value * square.rsqrt(), there & (square >= smallest_square(square.dtype))
        elif rules.metric == "euclidean":
            shift = shift + (1 - square) / 2
    value = torch.where(there & value.isfinite(), value + shift, 2 * NEVER)
    value, at = value.permute(0, 2, 1, 3).reshape(g, h, q * r).max(dim=2)
    u, v = (w.permute(0, 2, 1, 3).reshape(g, h, q * r).gather(2, at[..., None])[..., 0] for w in (u, v))
    return Hardest(value, at // r + part.start + x.first, at % r + y.first, u, v)


def _weights(a: Segment, b: Segment, m: Products, rules: Rules, segments: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """How much of each point's first end."""
    whole = torch.ones_like(m.first_first)
    to_member = nearest.on_arc if rules.normalize else nearest.on_line
    match segments:
        case (True, True):
            return nearest.between_arcs(a, b, m) if rules.normalize else nearest.between_lines(a, b, m)
        case (True, False):
            return to_member(a, m.first_first, m.second_first), whole
        case (False, True):
            return whole, to_member(b, m.first_first, m.first_second)
        case _:
            return whole, whole
