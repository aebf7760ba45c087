"""The terms that a loss computes from a table of similarities, and helpers that several losses share.

Notation: s is a similarity of the table, d^2 = 2 - 2s the corresponding squared distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.pairs import Pairs, rounding

STEEPEST = 1e-6  # distances below this one pass on the slope of the square root at this one, in every precision
NOTHING = -1e30  # the logarithm of an empty sum: finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True)
class Terms:
    """What each anchor adds to a loss, and its weight. A loss is a sum of t means, each over its own anchors or pairs.

    A weight of 0 implies a total of 0, except for a regulariser that is divided by the weights of other terms. Weights
    carry no gradient.
    """

    total: Float[Tensor, "t a"]
    weight: Float[Tensor, "t a"]

    def mean(self) -> Float[Tensor, ""]:
        """The value of the loss: the sum over t of total.sum() / weight.sum(), where a mean of total weight 0 counts 0.

        Example:
            >>> Terms(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 1.0], [0.0, 0.0]])).mean()
            tensor(0.5000)
        """
        share = self.weight.sum(dim=1).reciprocal().nan_to_num(0, 0, 0)
        return torch.dot(self.total.sum(dim=1), share)

    def active_share(self) -> Float[Tensor, ""]:
        """The share of anchors with a total above 0 among those with a weight above 0, without gradient."""
        counts = self.weight.detach() > 0
        return ((self.total.detach() > 0) & counts).sum() / counts.sum().clamp(min=1)


def negatives_of_anchors(pairs: Pairs) -> tuple[Float[Tensor, "a m"], Bool[Tensor, "a m"]]:
    """The rows of `pairs.negative` and its mask that belong to anchors, without the additional rows of partners."""
    if pairs.partner is None:  # all rows belong to anchors
        return pairs.negative, pairs.negative_mask
    a = len(pairs.positive)
    return pairs.negative[:a], pairs.negative_mask[:a]


def positive_pairs(pairs: Pairs) -> Float[Tensor, "1 a"]:
    """The weights of a mean over positive pairs: the number of positives of each anchor."""
    return count_of(pairs.positive_mask, pairs)[None]


def count_of(mask: Bool[Tensor, "a k"], pairs: Pairs) -> Float[Tensor, " a"]:
    """The number of unmasked entries of each row, in the precision of the table."""
    return mask.sum(dim=1, dtype=pairs.positive.dtype)


def two_means(
    pull: Float[Tensor, "a p"],
    positive_mask: Bool[Tensor, "a p"],
    push: Float[Tensor, "a m"],
    negative_mask: Bool[Tensor, "a m"],
) -> Terms:
    """The terms of a loss that adds a mean over positive pairs and a mean over negative pairs."""
    both = (pull, positive_mask), (push, negative_mask)
    return Terms(
        torch.stack([masked_sum(values, mask) for values, mask in both]),
        torch.stack([mask.sum(dim=1, dtype=pull.dtype) for _, mask in both]),
    )


def squared_distance(similarity: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """d^2 = 2 - 2s, clamped at 0 because rounding can make it negative."""
    found: Tensor = _SquaredDistance.apply(similarity)
    return found


class _SquaredDistance(torch.autograd.Function):
    """max(2 - 2s, 0). It saves only the mask of the clamped entries for the backward pass."""

    @staticmethod
    def forward(ctx: Any, similarity: Tensor) -> Tensor:
        found = torch.rsub(similarity, 2, alpha=2)
        ctx.save_for_backward(found < 0)
        return found.clamp_(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (cut_off,) = ctx.saved_tensors
        return (gradient * -2).masked_fill_(cut_off, 0)


def distance(similarity: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """The distance d, or 0 where rounding hides it (below 1.4e-3 in float32, 6e-8 in float64).

    The gradient is finite. A distance computed from a similarity is exact to about 3e-4 in float32 (1e-8 in float64)
    where points nearly coincide.
    """
    found: Tensor = _Distance.apply(similarity)
    return found


class _Distance(torch.autograd.Function):
    """sqrt(2 - 2s). It saves only its result for the backward pass.

    The slope of the square root is infinite at 0. It is bounded by the slope at the smallest distance that rounding
    does not hide. Points that coincide get no gradient, because the gradient of their similarity is 0; a batch that has
    nearly collapsed can still separate.
    """

    @staticmethod
    def forward(ctx: Any, similarity: Tensor) -> Tensor:
        found = torch.rsub(similarity, 2, alpha=2)
        found = functional.threshold(found, rounding(similarity), 0, inplace=True).sqrt_()
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (found,) = ctx.saved_tensors
        passed_on: Tensor = (gradient / found.clamp(min=max(rounding(found) ** 0.5, STEEPEST))).neg_()
        return passed_on


def active(hinge: Float[Tensor, "*t"]) -> Bool[Tensor, "*t"]:
    """True where a hinge is above 0 by more than rounding."""
    return hinge > rounding(hinge)


def square(values: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """The squares. `Tensor.square` needs one operation more in the backward pass."""
    found: Tensor = _Square.apply(values)
    return found


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values * values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        passed_on: Tensor = (gradient * values).mul_(2)
        return passed_on


def half_squared_hinges(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """The sum of [x]_+^2 / 2 of each row over its unmasked entries x."""
    found: Tensor = _HalfSquaredHinges.apply(values, mask)
    return found


class _HalfSquaredHinges(torch.autograd.Function):
    """The derivative of half a square is the hinge itself, which is saved."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor) -> Tensor:
        hinge = functional.relu(values).mul_(mask)
        ctx.save_for_backward(values, mask, hinge)
        return (hinge * hinge).sum(dim=1).div_(2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, mask, hinge = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative
            hinge = functional.relu(values) * mask
        return hinge * gradient[:, None], None


def masked_sum(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """The sum of each row over its unmasked entries, those whose mask is True. All entries must be finite."""
    return (values * mask).sum(dim=1)


def masked_logsumexp(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """The log-sum-exp of each row over its unmasked entries, or a large negative number if there are none.

    A caller passes no gradient to a row without entries: whatever it computes of so small a number is constant.
    """
    if torch.compiler.is_compiling():
        return logsumexp(torch.where(mask, values, NOTHING))
    found: Tensor = _LogSumExp.apply(_Unmasked.apply(values, mask))
    return found


class _Unmasked(torch.autograd.Function):
    """The values, or NOTHING where they are masked. These entries have no share in a sum, so their gradient is 0."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, values, NOTHING)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _LogSumExp(torch.autograd.Function):
    """The log-sum-exp of each row, with one temporary table in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        found = values.logsumexp(dim=1)
        ctx.save_for_backward(values, found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        values, found = ctx.saved_tensors
        shares = (values - found[:, None]).exp_()
        times = torch.mul if torch.is_grad_enabled() else Tensor.mul_  # a second derivative reads the shares again
        passed_on: Tensor = times(shares, gradient[:, None])
        return passed_on


def logsumexp(values: Float[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """The log-sum-exp of each row.

    torch.compile needs a form without `torch.logsumexp`, which branches on the number of columns.
    """
    if not torch.compiler.is_compiling():
        return values.logsumexp(dim=1)
    values = with_a_column(values, NOTHING)
    most = values.detach().amax(dim=1, keepdim=True)
    return (values - most).exp().sum(dim=1).log() + most[:, 0]


def with_a_column(values: Float[Tensor, "a k"], entry: float) -> Float[Tensor, "a m"]:
    """Appends a column of `entry` in compiled code, because the maximum over no columns is undefined.

    A batch without rows has no columns. In eager code the values are returned unchanged.
    """
    return functional.pad(values, (0, 1), value=entry) if torch.compiler.is_compiling() else values


def logaddexp(left: Float[Tensor, "*#s"], right: Float[Tensor, "*#s"]) -> Float[Tensor, "*#s"]:
    """log(exp(left) + exp(right)) for each entry, twice differentiable.

    `torch.logaddexp` has no second derivative where one of the two is the logarithm of an empty sum.
    """
    if torch.compiler.is_compiling():
        return torch.logaddexp(left, right)
    both: list[Tensor] = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]
    return torch.stack(both).logsumexp(dim=0)
