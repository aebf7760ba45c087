"""Precision among as many neighbours as a class has: what measures of rankings and of lists have in common."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def precisions_at_r(
    relevant: Bool[Tensor, "q k"], matches: Int[Tensor, " q"]
) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """R-precision and the average precision at R of each query, as `retrieval_metrics` defines them.

    Args:
        relevant: whether each of the k nearest is of the query's class, the nearest first; k is at least the largest R.
        matches: R of each query.

    Returns:
        Float64; NaN, 0 / 0, for a query without matches.
    """
    place = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    within = relevant & (place <= matches.unsqueeze(1))
    hits = within.cumsum(1, dtype=torch.int32)
    most = matches.double()
    return within.sum(1) / most, (hits * within).double().div_(place).sum(1) / most
