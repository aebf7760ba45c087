"""Sums over all pairs of a positive and a negative of an anchor, without the table of them.

A table of all triplets has b x p x m entries. Here one slot of the positives is looked at at a time, in the backward
pass again, so that memory is that of the negatives.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.nn import functional


def _value(kind: str, gap: Tensor) -> Tensor:
    return functional.softplus(gap) if kind == "softplus" else gap.sigmoid()


def _slope(kind: str, gap: Tensor) -> Tensor:
    share = gap.sigmoid()
    return share if kind == "softplus" else share * (1 - share)


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
        lowest: pairs with a smaller difference take no part.
        highest: nor do those with a larger one.

    Returns:
        The sums (a, p) and the counts (a, p), 0 in slots that are not used.
    """
    total, count = _sum(kind, near, away, near_mask, away_mask, lowest, highest)
    return total, count.detach()


def _slots(near: Tensor, away: Tensor, near_mask: Tensor, away_mask: Tensor, lowest: float, highest: float) -> Any:
    for j in range(near.shape[1]):
        gap = near[:, j, None] - away
        yield j, gap, near_mask[:, j, None] & away_mask & (gap > lowest) & (gap < highest)


@torch.library.custom_op("embedding_expansion::sum_over_negatives", mutates_args=())
@no_type_check  # a checked function has no signature to read
def _sum(
    kind: str,
    near: Tensor,
    away: Tensor,
    near_mask: Tensor,
    away_mask: Tensor,
    lowest: float,
    highest: float,
) -> tuple[Tensor, Tensor]:
    total, count = torch.zeros_like(near), torch.zeros_like(near)
    for j, gap, mask in _slots(near, away, near_mask, away_mask, lowest, highest):
        total[:, j] = torch.where(mask, _value(kind, gap), 0).sum(dim=1)
        count[:, j] = mask.sum(dim=1)
    return total, count


@_sum.register_fake
def _(kind, near, away, near_mask, away_mask, lowest, highest):  # type: ignore[no-untyped-def]
    return torch.empty_like(near), torch.empty_like(near)


@torch.library.custom_op("embedding_expansion::sum_over_negatives_back", mutates_args=())
@no_type_check
def _back(
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
    for j, gap, mask in _slots(near, away, near_mask, away_mask, lowest, highest):
        slope = torch.where(mask, _slope(kind, gap), 0) * gradient[:, j, None]
        to_near[:, j] = slope.sum(dim=1)
        to_away -= slope
    return to_near, to_away


@_back.register_fake
def _(gradient, near, away, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(near), torch.empty_like(away)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    kind, *tensors, lowest, highest = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = kind, lowest, highest


def _pass_back(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return None, *_back(gradient, *ctx.saved_tensors, *ctx.options), None, None, None, None


_sum.register_autograd(_pass_back, setup_context=_keep)
