"""What the two searches in torch share: points of groups of one size, a block of inner products, its hardest pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.core.search.problem import Rules


@dataclass(frozen=True)
class Offer:
    """The points that all groups of one size offer."""

    groups: slice  # which groups of the side they are
    members: slice  # which members of the side
    k: int  # members of a group
    ends: Int[Tensor, "q 2"]  # between which two members of its group each point lies; an original is both its ends


@dataclass(frozen=True)
class Block:
    """Some groups of the left against some of the right."""

    product: Float[Tensor, "g k h l"]  # of the left's members with the right's
    rows: slice  # which of the left's groups of that size
    columns: slice  # which of the right's
    rules: Rules
    limit: int  # entries of a table that are looked at at a time

    def parts(self, count: int, others: int) -> Iterator[slice]:
        """So many of `count` points of the left at a time that, with `others` of the right, the limit holds; or one."""
        entries = self.product.shape[0] * self.product.shape[2] * others
        step = max(1, self.limit // max(1, entries))
        return (slice(first, min(count, first + step)) for first in range(0, count, step))


class Hardest(NamedTuple):
    """For every two groups the largest value, which points have it, and the weight of each point's first end."""

    value: Float[Tensor, "g h"]
    left: Int[Tensor, "g h"]
    right: Int[Tensor, "g h"]
    left_weight: Float[Tensor, "g h"]
    right_weight: Float[Tensor, "g h"]

    def or_harder(self, other: Hardest) -> Hardest:
        """The other's where it is harder, not where it is as hard: the first of equals wins."""
        harder = other.value > self.value
        return Hardest(*(torch.where(harder, theirs, ours) for ours, theirs in zip(self, other, strict=True)))
