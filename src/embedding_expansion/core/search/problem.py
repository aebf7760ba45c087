"""What the search for the hardest pairs is given, and what it finds: the same for the native kernel and for torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.pairs import Metric
from embedding_expansion.core.sides import Side

NEVER = -1e30  # the value of a point that takes no part: no other is smaller


@dataclass(frozen=True)
class Rules:
    """What a point is, and what is hardest."""

    n: int | float  # points on a segment, or infinity
    normalize: bool  # synthetic points, again
    metric: Metric

    @property
    def count(self) -> int:
        """Points to look at one by one."""
        return 0 if math.isinf(self.n) else int(self.n)


def smallest_square(dtype: torch.dtype) -> float:
    """The squared norm under which a synthetic point has no direction."""
    return 1e-10 if dtype == torch.float64 else 1e-4


def least_length(dtype: torch.dtype) -> float:
    """The squared norm under which the ends of an arc are one point, or opposite ones: a multiple of rounding."""
    return 1e-14 if dtype == torch.float64 else 1e-6


@dataclass(frozen=True)
class Problem:
    """Two sides and the inner products of their rows."""

    product: Float[Tensor, "s t"]
    left: Side
    right: Side
    left_gram: Float[Tensor, " o"]  # inner products of each group with itself, size x size, group by group
    right_gram: Float[Tensor, " p"]
    rules: Rules
    symmetric: bool  # both sides are the same: the pair (h, g) is that of (g, h) turned round


@dataclass(frozen=True)
class Found:
    """The hardest pair of every group of the left and every group of the right; value 0 within a class."""

    ends: Int[Tensor, "g h 4"]  # members of the left's group, then of the right's; an original is both its ends
    weights: Float[Tensor, "g h 2"]  # of each first end
    value: Float[Tensor, "g h"]
    half: bool  # where the problem is symmetric, ends and weights are there for pairs of a group and a later one only

    def whole(self) -> Found:
        """With ends and weights for every two groups."""
        if not self.half:
            return self
        upper = torch.ones_like(self.value, dtype=torch.bool).triu()[..., None]
        ends = torch.where(upper, self.ends, self.ends.transpose(0, 1)[..., [2, 3, 0, 1]])
        weights = torch.where(upper, self.weights, self.weights.transpose(0, 1).flip(-1))
        return Found(ends, weights, self.value, half=False)

    @property
    def is_synthetic(self) -> Bool[Tensor, "g h 2"]:
        """Which of the points are synthetic."""
        return self.ends[..., 0::2] != self.ends[..., 1::2]
