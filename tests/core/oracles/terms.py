"""What an oracle gives, for each anchor a list of (total, weight), one a mean, and what oracles share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Term = tuple[Tensor, float]
ZERO = torch.zeros((), dtype=torch.float64)


def squared(s: Tensor) -> Tensor:
    return 2 - 2 * s


def distance(s: Tensor) -> Tensor:
    return (2 - 2 * s).sqrt()


def add(values: Sequence[Tensor]) -> Tensor:
    total = ZERO
    for value in values:
        total = total + value
    return total


def hinge(value: Tensor) -> Tensor:
    return value.clamp(min=0)


def totals(terms: list[list[Term]]) -> Tensor:
    """The totals as (t, a)."""
    return torch.stack([torch.stack([total for total, _ in anchor]) for anchor in terms]).T


def weights(terms: list[list[Term]]) -> Tensor:
    """The weights as (t, a)."""
    return torch.tensor([[float(weight) for _, weight in anchor] for anchor in terms], dtype=torch.float64).T


def mean(terms: list[list[Term]]) -> Tensor:
    """The value: a mean of its own for each t; what weighs nothing adds nothing."""
    value = ZERO
    for total, weight in zip(totals(terms), weights(terms), strict=True):
        if float(weight.sum()) > 0:
            value = value + total.sum() / weight.sum()
    return value


def gradient(value: Tensor, E: Tensor) -> Tensor:
    """Gradient of an oracle's value, zero where it does not depend on the embeddings at all."""
    if not value.requires_grad:
        return torch.zeros_like(E)
    (found,) = torch.autograd.grad(value, E, retain_graph=True)
    return found
