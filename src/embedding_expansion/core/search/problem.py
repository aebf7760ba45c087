"""The input and the result of the search for the hardest pairs, shared by all its implementations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.pairs import Metric
from embedding_expansion.core.sides import Side

NEVER = -1e30  # the value of a point that is excluded; every real value is larger
#: The squared norm below which a synthetic point has no direction and is excluded.
SMALLEST_SQUARE = {torch.float32: 1e-4, torch.float64: 1e-10}
#: The squared norm below which the ends of an arc count as equal, or as opposite: a multiple of rounding.
LEAST_LENGTH = {torch.float32: 1e-6, torch.float64: 1e-14}


@dataclass(frozen=True)
class Rules:
    """Which synthetic points there are, and what "hardest" means."""

    n: int | float  # points on a segment, or infinity
    normalize: bool  # whether synthetic points are L2-normalised again
    metric: Metric


@dataclass(frozen=True)
class Problem:
    """The two sides of the search and the inner products of their rows."""

    product: Float[Tensor, "s t"]
    left: Side
    right: Side
    left_gram: Float[Tensor, " o"]  # the groups' Gram matrices, size x size each, flattened one after another
    right_gram: Float[Tensor, " p"]
    rules: Rules
    symmetric: bool  # both sides are the same, so that the pair (h, g) is the pair (g, h) reversed


@dataclass(frozen=True)
class HardestPairs:
    """The hardest pair of points of every left group and every right group; the value is 0 within a class."""

    ends: Int[Tensor, "g h 4"]  # two members of the left group, two of the right; for an original the same one twice
    weights: Float[Tensor, "g h 2"]  # of the first end on either side; the second has 1 minus it
    value: Float[Tensor, "g h"]
    half: bool  # ends and weights are valid above the diagonal only, because the problem is symmetric

    def whole(self) -> HardestPairs:
        """The same pairs with ends and weights on both sides of the diagonal."""
        if not self.half:
            return self
        upper = torch.ones_like(self.value, dtype=torch.bool).triu()[..., None]
        ends = torch.where(upper, self.ends, self.ends.transpose(0, 1)[..., [2, 3, 0, 1]])
        weights = torch.where(upper, self.weights, self.weights.transpose(0, 1).flip(-1))
        return HardestPairs(ends, weights, self.value, half=False)

    @property
    def is_synthetic(self) -> Bool[Tensor, "g h 2"]:
        """Whether the left and the right point of each pair are synthetic."""
        return self.ends[..., 0::2] != self.ends[..., 1::2]
