"""Mining: the hardest pair of points of every two classes, found in and read off the Gram matrix.

A synthetic point is a weighted sum of two rows, so every inner product that mining needs is a small bilinear form of
G = E E^T: with W the weights, the expanded table is W G W^T. No point is built in d dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.grouping import Classes
from embedding_expansion.core.pairs import Metric, as_similarity
from embedding_expansion.core.points import Bucket, Scope, anchor_points, class_points

TABLE_LIMIT = 1 << 24  # entries of the expanded table that the search computes at a time: 64 MiB in float32


@dataclass(frozen=True)
class Winners:
    """The hardest pair of points for every row l (a class, or in anchor scope an anchor) and every class c.

    The last axis but one of `ends` names the point: 0 is the anchor's, 1 the negative. An original point is both ends,
    with weights (1, 0). The entries of the anchor's own class mean nothing.
    """

    ends: Int[Tensor, "l c 2 2"]  # rows of the batch
    weights: Float[Tensor, "l c 2 2"]  # of the interpolation, before a synthetic point is normalised again
    is_synthetic: Bool[Tensor, "l c 2"]


def smallest_square(dtype: torch.dtype) -> float:
    """The squared norm under which a synthetic point has no direction."""
    return 1e-10 if dtype == torch.float64 else 1e-4


def squared_norm(
    product: Float[Tensor, "b b"], ends: Int[Tensor, "*p 2"], weights: Float[Tensor, "*#p 2"]
) -> Float[Tensor, "*p"]:
    """Squared norms of points, read off the Gram matrix."""
    (i, j), (u, v) = ends.unbind(-1), weights.unbind(-1)
    return u * u * product[i, i] + 2 * u * v * product[i, j] + v * v * product[j, j]


def read(
    product: Float[Tensor, "b b"], winners: Winners, normalize_synthetic: bool, metric: Metric
) -> Float[Tensor, "l c"]:
    """The similarity of every winning pair, with gradient."""
    ends, weights = winners.ends, winners.weights.to(product.dtype)
    inner = (
        product[ends[:, :, 0, :, None], ends[:, :, 1, None, :]] * weights[:, :, 0, :, None] * weights[:, :, 1, None, :]
    ).sum(dim=(-2, -1))
    square = squared_norm(product, ends, weights)
    if normalize_synthetic:
        one = torch.ones_like(square)
        scale = torch.where(winners.is_synthetic, square, one).rsqrt()
        inner = inner * scale[..., 0] * scale[..., 1]
        square = torch.where(winners.is_synthetic, one, square)
    return as_similarity(inner, square[..., 0], square[..., 1], metric)


@dataclass(frozen=True)
class _Measured:
    """A bucket's points as the search needs them: how to scale an inner product, what to add to it, who takes part."""

    bucket: Bucket
    scale: Float[Tensor, "g q"]
    shift: Float[Tensor, "g q"]  # -inf for a point that takes no part

    @classmethod
    def of(
        cls,
        product: Float[Tensor, "b b"],
        bucket: Bucket,
        normalize_synthetic: bool,
        metric: Metric,
        excluded: Bool[Tensor, " b"] | None = None,
    ) -> _Measured:
        """Measure a bucket; `excluded` marks rows that may not be both ends of a point."""
        square = squared_norm(product, bucket.rows, bucket.weights)
        scale, shift = torch.ones_like(square), torch.zeros_like(square)
        if normalize_synthetic:
            dropped = bucket.is_synthetic & (square < smallest_square(square.dtype))
            scale = torch.where(bucket.is_synthetic, square, scale).clamp(min=smallest_square(square.dtype)).rsqrt()
            scale = torch.where(bucket.is_synthetic, scale, torch.ones_like(scale))
            square = torch.where(bucket.is_synthetic, torch.ones_like(square), square)
        if metric == "euclidean":
            shift = (1 - square) / 2
        if normalize_synthetic:
            shift = shift.masked_fill(dropped, -torch.inf)
        if excluded is not None:
            shift = shift.masked_fill(excluded[bucket.rows].all(dim=-1), -torch.inf)
        return cls(bucket, scale, shift)

    def chunks(self, size: int) -> Iterator[_Measured]:
        """The same in pieces of so many groups."""
        b = self.bucket
        for i in range(0, len(b.groups), size):
            part = slice(i, i + size)
            piece = Bucket(b.groups[part], b.members[part], b.ends, b.weights, b.originals)
            yield _Measured(piece, self.scale[part], self.shift[part])


def search(
    product: Float[Tensor, "b b"],
    classes: Classes,
    rows: Int[Tensor, " r"],
    n: int,
    scope: Scope,
    normalize_synthetic: bool,
    metric: Metric,
    past: Bool[Tensor, " b"] | None,
) -> Winners:
    """The hardest pairs by looking at the whole expanded table, a bounded piece at a time."""
    points = class_points(classes, n, product.dtype, scope=scope)
    right = [_Measured.of(product, bucket, normalize_synthetic, metric) for bucket in points]
    if scope == "class_pair":
        left = [_Measured.of(product, bucket, normalize_synthetic, metric, past) for bucket in points]
        shape = (len(classes.label), len(classes.label))
    else:
        left = [
            _Measured.of(product, bucket, normalize_synthetic, metric)
            for bucket in anchor_points(rows, n, product.dtype)
        ]
        shape = (len(rows), len(classes.label))
    ends = rows.new_zeros(*shape, 2, 2)
    weights = product.new_zeros(*shape, 2, 2)
    synthetic = torch.zeros(*shape, 2, dtype=torch.bool, device=product.device)
    for a, b in _pieces(left, right):
        at = a.bucket.groups[:, None], b.bucket.groups
        best = _best(product, a, b)
        for side, (bucket, q) in enumerate(((a.bucket, best[0]), (b.bucket, best[1]))):
            group_of = torch.arange(len(bucket.groups), device=q.device)
            ends[(*at, side)] = bucket.rows[group_of[:, None] if side == 0 else group_of, q]
            weights[(*at, side)] = bucket.weights[q]
            synthetic[(*at, side)] = bucket.is_synthetic[q]
    return Winners(ends, weights, synthetic)


def _pieces(left: list[_Measured], right: list[_Measured]) -> Iterator[tuple[_Measured, _Measured]]:
    """Every group of the left with every group of the right, as many at a time as the limit allows."""
    for a in left:
        for b in right:
            pairs = max(1, TABLE_LIMIT // (a.scale.shape[1] * b.scale.shape[1]))
            columns = min(pairs, len(b.scale))
            for piece in a.chunks(max(1, pairs // columns)):
                for other in b.chunks(columns):
                    yield piece, other


def _best(
    product: Float[Tensor, "b b"], left: _Measured, right: _Measured
) -> tuple[Int[Tensor, "g h"], Int[Tensor, "g h"]]:
    """For every two groups, which point of the left and which of the right make the hardest pair."""
    a, b = left.bucket.members, right.bucket.members
    (g, q), (h, r) = left.scale.shape, right.scale.shape
    block = product[a.flatten()[:, None], b.flatten()].reshape(*a.shape, *b.shape)
    hardest = product.new_full((g, h), -torch.inf)
    winner = torch.zeros(g, h, dtype=torch.int64, device=product.device)
    step = max(1, TABLE_LIMIT // (g * h * r))  # a single pair of large classes is over the limit by itself
    with torch.autocast(product.device.type, enabled=False):
        block = torch.einsum("gkhl,rl->gkhr", block, right.bucket.mixing)
        for first in range(0, q, step):
            part = slice(first, first + step)
            table = torch.einsum("qk,gkhr->ghqr", left.bucket.mixing[part], block)
            table.mul_(left.scale[:, None, part, None]).mul_(right.scale[:, None, :])
            table.add_(left.shift[:, None, part, None]).add_(right.shift[:, None, :])
            value, index = table.flatten(2).max(dim=-1)
            harder = value > hardest  # not "at least": the first of equals wins
            hardest = torch.where(harder, value, hardest)
            winner = torch.where(harder, index + first * r, winner)
    return winner // r, winner % r
