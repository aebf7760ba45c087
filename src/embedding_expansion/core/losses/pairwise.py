"""Sums over all pairs of a positive and a negative of an anchor, without the table of them.

A table of all triplets has b x p x m entries. Here one slot of the positives is looked at at a time, in the backward
pass again, so that memory is that of the negatives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.custom_op import CustomOp


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
    """For each of an anchor's positives j, the sum over its negatives k of f(near_j - away_k), and how many there are.

    Args:
        kind: f: "softplus" or "sigmoid".
        near: (a, p), of the positives.
        away: (a, m), of the negatives.
        near_mask: (a, p).
        away_mask: (a, m).
        lowest: pairs of this difference, or a smaller one, take no part.
        highest: nor do those of this one, or a larger one.

    Returns:
        The sums (a, p) and the counts (a, p), 0 in slots that are not used.
    """
    total, count = _sum(kind, near, away, near_mask, away_mask, lowest, highest)
    return total, count.detach()


def _gaps(near: Tensor, away: Tensor, away_mask: Tensor, lowest: float, highest: float) -> Iterator[tuple[int, Tensor]]:
    """Slot by slot the differences, minus infinity, of which f and its slope are 0, where there is no pair."""
    away = torch.where(away_mask, away, torch.inf)
    for j in range(near.shape[1]):
        gap = near[:, j, None] - away
        if math.isfinite(lowest) or math.isfinite(highest):
            gap.masked_fill_((gap <= lowest) | (gap >= highest), -torch.inf)
        yield j, gap


@no_type_check  # a checked function has no signature to read
def _sums(
    kind: str,
    near: Tensor,
    away: Tensor,
    near_mask: Tensor,
    away_mask: Tensor,
    lowest: float,
    highest: float,
) -> tuple[Tensor, Tensor]:
    total, count = torch.zeros_like(near), torch.zeros_like(near)
    for j, gap in _gaps(near, away, away_mask, lowest, highest):
        count[:, j] = (gap > -torch.inf).sum(dim=1)
        total[:, j] = _value(kind, gap).sum(dim=1)
    return torch.where(near_mask, total, 0), torch.where(near_mask, count, 0)


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
    to_near, to_away = torch.zeros_like(near), torch.zeros_like(away)
    gradient = torch.where(near_mask, gradient, 0)
    times = torch.mul if torch.is_grad_enabled() else Tensor.mul_  # a second derivative reads the slopes again
    for j, gap in _gaps(near, away, away_mask, lowest, highest):
        slope = times(_slope(kind, gap), gradient[:, j, None])
        to_near[:, j] = slope.sum(dim=1)
        to_away -= slope
    return to_near, to_away


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
