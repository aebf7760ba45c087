"""Angular loss."""

from __future__ import annotations

import math
from typing import Any, Unpack, no_type_check

import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.custom_op import CustomOp
from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import NOTHING, Terms, logsumexp, masked_logsumexp, masked_sum, positive_pairs
from embedding_expansion.errors import InvalidInput


def angular(pairs: Pairs, angle: float = 45.0) -> Terms:
    """Angular loss: 1/|P| sum over P of log(1 + sum over N_i of exp(4 t (s_ik + s_jk) - 2 (1 + t) s_ij)).

    t is the squared tangent of the angle. Where the negatives belong to the class (`pairs.per_class`, expansion in
    class-pair scope), both ends of a positive pair share them: s_jk = s_ik.

    Args:
        pairs: from `compare` or `expand` with partners, metric "inner".
        angle: the most that the triangle of a negative and the two ends may have at the negative, in degrees.

    Returns:
        Terms (1, a), weighing the positive pairs of each anchor; an anchor without negatives adds 0 to them.

    Raises:
        InvalidInput: if the pairs hold no partners and are not per class, or the angle is not between 0 and 90.

    Source: Wang et al., "Deep Metric Learning with Angular Loss", ICCV 2017, equation 8. Differs from the source: every
    other point is a negative, not one per class.
    """
    if not 0 < angle < 90:
        raise InvalidInput(f"angle is {angle}; pass degrees between 0 and 90, by default 45")
    tangent = math.tan(math.radians(angle)) ** 2
    if pairs.per_class:
        a = len(pairs.positive)
        against = masked_logsumexp(8 * tangent * pairs.negative[:a], pairs.negative_mask[:a])[:, None]
    elif pairs.partner is None:
        raise InvalidInput("angular needs both ends' negatives; make the pairs with partners=True")
    else:
        rows = torch.where(pairs.negative_mask, 4 * tangent * pairs.negative, NOTHING)
        against = _sums_of_both_ends(rows, pairs.partner)
    term = functional.softplus(against - 2 * (1 + tangent) * pairs.positive)
    return Terms(masked_sum(term, pairs.positive_mask)[None], positive_pairs(pairs))


@no_type_check  # a checked function has no signature to read
def _sums(rows: Tensor, partner: Tensor) -> Tensor:
    """Log sum over k of exp(rows[i, k] + rows[partner[i, j], k]), (a, p), one slot at a time: no table of triplets."""
    mine = rows[: len(partner)]
    return torch.stack([logsumexp(mine + rows[partner[:, j]]) for j in range(partner.shape[1])], dim=1)


@no_type_check
def _shares(gradient: Tensor, rows: Tensor, partner: Tensor) -> Tensor:
    mine, result = rows[: len(partner)], torch.zeros_like(rows)
    for j in range(partner.shape[1]):
        share = (mine + rows[partner[:, j]]).softmax(dim=1) * gradient[:, j, None]
        result[: len(partner)] += share
        result.index_add_(0, partner[:, j], share)
    return result


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(back: Any, ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return back(gradient, *ctx.saved_tensors), None


@no_type_check
def _fake_sums(rows, partner):
    return rows.new_empty(partner.shape)


@no_type_check
def _fake_shares(gradient, rows, partner):
    return torch.empty_like(rows)


_back = CustomOp("sums_of_both_ends_back", _shares, _fake_shares)
_sums_of_both_ends = CustomOp("sums_of_both_ends", _sums, _fake_sums, _keep, _backward, _back)


class AngularLoss(PairLoss, function=angular, metric="inner", reads_partner=True, positive=("angle",)):
    """Angular loss (angle=45.0 degrees); see `losses.angular`, and PairLoss for the options."""

    @validates
    def __init__(self, angle: float = 45.0, **options: Unpack[Options]) -> None:
        super().__init__({"angle": angle}, **options)
