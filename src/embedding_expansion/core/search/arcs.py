"""The search for the hardest pairs where n is infinite, with torch alone: the closed form for every two segments.

A pair of points is hardest at one of: two members, a member and a point inside a segment, two points inside segments.
Where the middle of an arc is no point, as its ends are nearly opposite, the edges of that hole count as members. All
are computed from inner products (see nearest.py) and held against each other.
"""

from __future__ import annotations

import itertools
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
    """Points of one kind, of all groups of one size, each between two members or a member itself."""

    ends: Int[Tensor, "q 2"]
    first: int  # where they stand among all points of a group
    own: Segment
    allowed: Bool[Tensor, "*s"]  # as own's entries and weight (g, q), or in a shape that broadcasts
    weight: Float[Tensor, "*s"] | None  # of the first end; None: that of the nearest point between the ends
    inside: bool  # of a segment, and so normalised again; else a member

    def part(self, groups: slice, part: slice, shape: tuple[int, ...]) -> Spots:
        """Some of them, of some groups, in a shape that broadcasts."""
        own = Segment(*(x[groups, part].reshape(shape) for x in self.own))
        weight = None if self.weight is None else self.weight[groups, part].reshape(shape)
        return Spots(self.ends[part], self.first, own, self.allowed[groups, part].reshape(shape), weight, self.inside)


@dataclass(frozen=True)
class Arcs(Offer):
    """Members, what lies between them, and where ends are nearly opposite the edges of the hole in the middle."""

    kinds: tuple[Spots, ...]


def offers(side: Side, own: Float[Tensor, " o"], rules: Rules) -> Iterator[Arcs]:
    """The points of a side, a size of groups at a time; `own` as in `Problem`."""
    for (groups, members, k, segments), products in zip(side.layout.buckets, side.by_size(own), strict=True):
        itself = torch.arange(k, device=own.device)
        barred = torch.zeros_like(products[:, 0], dtype=torch.bool)
        if side.barred is not None:
            barred = side.barred[members].reshape(-1, k)
        free = ~barred[:, segments].all(dim=-1)
        there = (~barred & (itself < (k if side.layout.originals is None else side.layout.originals))).int()
        for end in segments.T:  # the ends of a segment that takes part are points of it
            there = there.index_add(1, end, free.int())
        pairs, between = itself[:, None].expand(-1, 2), _own(products, segments)
        whole = torch.ones_like(products[:, 0])
        kinds = [Spots(pairs, 0, _own(products, pairs), there > 0, whole, inside=False)]
        ends = [pairs]
        if rules.normalize or rules.metric == "euclidean":  # else it is bilinear: largest at the members
            kinds.append(Spots(segments, k, between, free, None, inside=True))
            ends.append(segments)
        if rules.normalize:
            edges = torch.cat(nearest.edges(between, smallest_square(own.dtype)), dim=1)
            allowed = free.repeat(1, 2) & ~edges.isnan()
            if bool(allowed.any()):
                twice = segments.repeat(2, 1), Segment(*(x.repeat(1, 2) for x in between))
                kinds.append(Spots(twice[0], k + len(segments), twice[1], allowed, edges, inside=True))
                ends.append(twice[0])
        yield Arcs(groups, members, k, torch.cat(ends), tuple(kinds))


def _own(products: Float[Tensor, "g k k"], ends: Int[Tensor, "q 2"]) -> Segment:
    i, j = ends.T
    return Segment(products[:, i, i], products[:, i, j], products[:, j, j])


def hardest(block: Block, a: Arcs, b: Arcs) -> Hardest:
    """The hardest pair of every two groups; the first of equals wins, members before points inside segments."""
    g, _, h, _ = block.product.shape
    value = block.product.new_full((g, h), 2 * NEVER)
    nobody, whole = value.new_zeros(g, h, dtype=torch.int64), torch.ones_like(value)
    best = Hardest(value, nobody, nobody, whole, whole)
    for x, y in itertools.product(a.kinds, b.kinds):
        for part in block.parts(len(x.ends), len(y.ends)) if len(y.ends) else ():
            best = best.or_harder(_hardest(block, x, y, part))
    return best


def _hardest(block: Block, x: Spots, y: Spots, part: slice) -> Hardest:
    """Among some of one kind of points of the left, and all of one kind of the right."""
    (g, _, h, _), rules = block.product.shape, block.rules
    q, r = part.stop - part.start, len(y.ends)
    a, b = x.part(block.rows, part, (g, q, 1, 1)), y.part(block.columns, slice(None), (1, 1, h, r))
    (i, j), (s, t) = a.ends.T, b.ends.T
    first, second = block.product[:, i], block.product[:, j]
    m = Products(first[..., s], first[..., t], second[..., s], second[..., t])
    u, v = (weight.expand_as(m.first_first) for weight in _weights(a, b, m, rules))
    value, shift, there = m.at(u, v), torch.zeros_like(m.first_first), a.allowed & b.allowed
    for spots, weight in ((a, u), (b, v)):
        square = spots.own.square(weight)
        if rules.normalize and spots.inside:
            least = smallest_square(square.dtype)
            value = value * square.clamp(min=least).rsqrt()
            if spots.weight is None:  # the edges of a hole have that squared norm, but for rounding
                there = there & (square >= least)
        elif rules.metric == "euclidean":
            shift = shift + (1 - square) / 2
    value = torch.where(there & value.isfinite(), value + shift, 2 * NEVER)
    value, at = value.permute(0, 2, 1, 3).reshape(g, h, q * r).max(dim=2)
    u, v = (w.permute(0, 2, 1, 3).reshape(g, h, q * r).gather(2, at[..., None])[..., 0] for w in (u, v))
    return Hardest(value, at // r + part.start + x.first, at % r + y.first, u, v)


def _weights(a: Spots, b: Spots, m: Products, rules: Rules) -> tuple[Tensor, Tensor]:
    """How much of each point's first end."""
    u, v = a.weight, b.weight
    if u is None and v is None:
        return (nearest.between_arcs if rules.normalize else nearest.between_lines)(a.own, b.own, m)
    to_point = nearest.on_arc if rules.normalize else nearest.on_line
    if u is None and v is not None:
        return to_point(a.own, *m.with_right(v)), v
    if v is None and u is not None:
        return u, to_point(b.own, *m.with_left(u))
    assert u is not None
    assert v is not None
    return u, v
