"""Soft histograms: a value between two edges is shared linearly between them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def soft_histogram(
    values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"], bins: int, least: float, most: float
) -> Float[Tensor, "a edges"]:
    """The soft number of unmasked values at each of bins + 1 edges from `least` to `most`, row by row.

    `least` may be above `most`. A value beyond the last edges is counted there, and has no gradient.
    """
    found: Tensor = _SoftHistogram.apply(values, mask, bins, least, most)
    return found


class _SoftHistogram(torch.autograd.Function):
    """Saves the bin of each value, between whose edges the gradient is constant."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor, bins: int, least: float, most: float) -> Tensor:
        ctx.scale = bins / (most - least)
        place = torch.rsub(values, -least * ctx.scale, alpha=-ctx.scale)
        within = place.clamp(0, bins)
        mask_within = (within == place) & mask
        lower = within.floor().clamp_(max=bins - 1)
        edge, share = lower.long(), within.sub_(lower)
        found = values.new_zeros(len(values), bins + 1)
        found.scatter_add_(1, edge, (1 - share).mul_(mask))
        ctx.save_for_backward(edge, mask_within)
        return found.scatter_add_(1, edge + 1, share.mul_(mask))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        edge, mask_within = ctx.saved_tensors
        rise = (gradient[:, 1:] - gradient[:, :-1]) * ctx.scale
        return rise.gather(1, edge) * mask_within, None, None, None, None
