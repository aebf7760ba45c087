"""The search for the hardest pairs where n is finite, with torch alone: the whole expanded table, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.core.search.candidates import Block, Hardest, Offer
from embedding_expansion.core.search.problem import NEVER, Rules, smallest_square
from embedding_expansion.core.sides import Side, interpolated


@dataclass(frozen=True)
class Points(Offer):
    """Points counted one by one: how to mix them, how to scale an inner product, what to add to it."""

    weights: Float[Tensor, "q 2"]
    scale: Float[Tensor, "g q"]
    shift: Float[Tensor, "g q"] | None  # None: nothing is added to any

    def mixing(self, groups: slice, part: slice) -> Float[Tensor, "g q k"]:
        """What takes a group's members to some of its points, scaled."""
        scaled = self.scale[groups, part, None] * self.weights[part]
        dense = scaled.new_zeros(*scaled.shape[:2], self.k)
        return dense.scatter_add_(2, self.ends[part].expand(len(scaled), -1, 2), scaled)


def offers(side: Side, own: Tensor, rules: Rules) -> Iterator[Points]:
    """The points of a side, a size of groups at a time; `own` as in `Problem`."""
    for (groups, members, k, segments), products in zip(side.layout.buckets, side.by_size(own), strict=True):
        originals = k if side.layout.originals is None else side.layout.originals
        itself = torch.arange(originals, device=own.device)[:, None].expand(-1, 2)
        inner, inner_weights = interpolated(segments, rules.count, own.dtype)
        ends = torch.cat([itself, inner])
        weights = torch.cat([inner_weights.new_tensor([[1.0, 0.0]]).expand(originals, 2), inner_weights])
        square = _square(products, ends, weights)
        scale, shift = torch.ones_like(square), torch.zeros_like(square)
        if rules.metric == "euclidean":
            shift = (1 - square) / 2
        if rules.normalize:
            dropped = square[:, originals:] < smallest_square(own.dtype)
            scale[:, originals:] = square[:, originals:].clamp(min=smallest_square(own.dtype)).rsqrt()
            shift[:, originals:] = torch.where(dropped, NEVER, 0)
        if side.barred is not None:
            out = side.barred[members].reshape(-1, k)[:, ends].all(dim=-1)
            shift = torch.where(out, NEVER, shift)
        yield Points(groups, members, k, ends, weights, scale, shift if bool((shift != 0).any()) else None)


def _square(products: Float[Tensor, "g k k"], ends: Int[Tensor, "q 2"], weights: Float[Tensor, "q 2"]) -> Tensor:
    """Squared norms of points, (g, q)."""
    (i, j), (u, v) = ends.T, weights.T
    mixed: Tensor = u * u * products[:, i, i] + 2 * u * v * products[:, i, j] + v * v * products[:, j, j]
    return mixed


def hardest(block: Block, a: Points, b: Points) -> Hardest:
    """The hardest pair of every two groups; the first of equals wins, originals before synthetic points."""
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
        harder = value > best  # not "at least": the first of equals wins
        best, left = torch.where(harder, value, best), torch.where(harder, q + part.start, left)
        of_winner = mixed.gather(2, q[:, None, None].expand(h, b.k, 1, g))
        right = torch.where(harder, _first_hardest(of_winner, b, block), right)
    left, right = left.T, right.T
    return Hardest(best.T, left, right, a.weights[:, 0][left], b.weights[:, 0][right])


def _tables(
    mixed: Float[Tensor, "h l q g"], b: Points, block: Block
) -> Iterator[tuple[slice, Float[Tensor, "h r qg"]]]:
    """Points of the left, as similarities to the right's members, against the right's points, some at a time."""
    rows = mixed.flatten(2)
    step = max(1, block.limit // max(1, len(rows) * rows.shape[2]))
    for first in range(0, len(b.ends), step):
        part = slice(first, min(len(b.ends), first + step))
        table = torch.bmm(b.mixing(block.columns, part), rows)
        yield part, table if b.shift is None else table.add_(b.shift[block.columns, part, None])


def _first_hardest(mixed: Float[Tensor, "h l 1 g"], b: Points, block: Block) -> Int[Tensor, "h g"]:
    """Which of the right's points is hardest."""
    best = mixed.new_full((len(mixed), mixed.shape[3]), 2 * NEVER)
    winner = torch.zeros_like(best, dtype=torch.int64)
    for part, table in _tables(mixed, b, block):
        value, index = table.max(dim=1)
        harder = value > best
        best, winner = torch.where(harder, value, best), torch.where(harder, index + part.start, winner)
    return winner
