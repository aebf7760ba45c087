"""Sums over all pairs of a positive and a negative of an anchor, without a table of all triplets.

Such a table has a x p x m entries. These sums process some slots of the positives at a time, and again in the backward
pass, so their memory is that of the table of negatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.custom_op import CustomOp

LIMIT = 1 << 20  # entries of a table of some slots at a time


def _value(kind: str, gap: Tensor) -> Tensor:
    return functional.softplus(gap) if kind == "softplus" else gap.sigmoid_()


def _slope(kind: str, gap: Tensor) -> Tensor:
    share = gap.sigmoid_()
    return share if kind == "softplus" else torch.addcmul(share, share, share, value=-1)


def sum_over_negatives(
    kind: str,
    near: Tensor,
    away: Tensor,
    near_mask: Tensor,
    away_mask: Tensor,
    lowest: float = -torch.inf,
    highest: float = torch.inf,
) -> tuple[Tensor, Tensor]:
    """For each positive j of an anchor, sums f(near_j - away_k) over its negatives k, and counts the summands.

    Args:
        kind: the function f, "softplus" or "sigmoid".
        near: (a, p), the values of the positives.
        away: (a, m), the values of the negatives.
        near_mask: (a, p), the slots of `near` that are used.
        away_mask: (a, m), the entries of `away` that are used.
        lowest: excludes pairs with a difference of at most this.
        highest: excludes pairs with a difference of at least this.

    Returns:
        The sums (a, p) and the counts (a, p), both 0 in unused slots.
    """
    total, count = _sum(kind, near, away, near_mask, away_mask, lowest, highest)
    return total, count.detach()


def _gaps(
    near: Tensor, away: Tensor, away_mask: Tensor, lowest: float, highest: float
) -> Iterator[tuple[slice, Tensor]]:
    """The differences near_j - away_k, (a, slots, m), of some slots j at a time, at least one.

    They are minus infinity, where f and f' are 0, for excluded pairs.
    """
    away = torch.where(away_mask, away, torch.inf)[:, None]
    step = max(1, LIMIT // max(1, away.numel()))
    for first in range(0, near.shape[1], step):
        slots = slice(first, first + step)
        gap = near[:, slots, None] - away
        if math.isfinite(lowest) or math.isfinite(highest):
            gap.masked_fill_((gap <= lowest) | (gap >= highest), -torch.inf)
        yield slots, gap


@no_type_check  # custom_op cannot read the signature of a function checked by jaxtyping
def _sums(
    kind: str,
    near: Tensor,
    away: Tensor,
    near_mask: Tensor,
    away_mask: Tensor,
    lowest: float,
    highest: float,
) -> tuple[Tensor, Tensor]:
    limited = math.isfinite(lowest) or math.isfinite(highest)
    total, count = torch.empty_like(near), torch.empty_like(near) if limited else away_mask.sum(dim=1, dtype=near.dtype)
    for slots, gap in _gaps(near, away, away_mask, lowest, highest):
        if limited:
            count[:, slots] = (gap > -torch.inf).sum(dim=2)
        torch.sum(_value(kind, gap), dim=2, out=total[:, slots])
    return total.mul_(near_mask), (count if limited else count[:, None]) * near_mask


@no_type_check
def _slopes(
    gradient: Tensor,
    near: Tensor,
    away: Tensor,
    near_mask: Tensor,
    away_mask: Tensor,
    kind: str,
    lowest: float,
    highest: float,
) -> tuple[Tensor, Tensor]:
    to_near, to_away = [], torch.zeros_like(away)
    gradient = gradient * near_mask
    times = torch.mul if torch.is_grad_enabled() else Tensor.mul_  # a second derivative reads the slopes again
    for slots, gap in _gaps(near, away, away_mask, lowest, highest):
        slope = times(_slope(kind, gap), gradient[:, slots, None])
        to_near.append(slope.sum(dim=2))
        to_away -= slope[:, 0] if slope.shape[1] == 1 else slope.sum(dim=1)
    return to_near[0] if len(to_near) == 1 else torch.cat(to_near, dim=1), to_away


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    kind, *tensors, lowest, highest = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = kind, lowest, highest


def _backward(back: Any, ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return None, *back(gradient, *ctx.saved_tensors, *ctx.options), None, None, None, None


@no_type_check
def _fake_sums(kind, near, away, near_mask, away_mask, lowest, highest):
    return torch.empty_like(near), torch.empty_like(near)


@no_type_check
def _fake_slopes(gradient, near, away, *rest):
    return torch.empty_like(near), torch.empty_like(away)


_back = CustomOp("sum_over_negatives_back", _slopes, _fake_slopes)
_sum = CustomOp("sum_over_negatives", _sums, _fake_sums, _keep, _backward, _back)
