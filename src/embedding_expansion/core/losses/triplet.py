"""Losses of triplets: an anchor, a positive and a negative.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.losses.hinge import Average
from embedding_expansion.core.losses.pairwise import sum_over_negatives
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs, rounding
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import (
    Terms,
    distance,
    masked_sum,
    negatives_of_anchors,
    squared_distance,
    with_a_column,
)

ROWS = 256  # of a table that are sorted at a time
Mining: TypeAlias = Literal["all", "hard", "semihard", "easy_positive"]


def triplet(
    pairs: Pairs,
    margin: float = 0.2,
    mining: Mining = "all",
    soft_margin: bool = False,
    squared: bool = True,
    average: Average = "all",
) -> Terms:
    """Triplet loss: 1/|P| sum over (i, j) in P and k in N_i of [d_ij^2 - d_ik^2 + margin]_+.

    The triplets are never listed: which of them are active is counted by sorting, and the sum over the active ones is
    linear in the distances. Memory is that of the table.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: on squared distances; on distances where `squared` is False.
        mining: which triplets take part: "all"; "hard", whose negative is as close as the positive or closer;
            "semihard", whose negative is further away, but not by more than the margin; "easy_positive", those with
            the anchor's closest positive. As close is what differs by rounding alone.
        soft_margin: log(1 + exp(d_ij - d_ik)) instead of the hinge; the margin then only says what is semihard.
        squared: False takes distances themselves, as pytorch-metric-learning does.
        average: "all" divides by the number of positive pairs, as the paper does; "active" by the number of triplets
            that add something, as pytorch-metric-learning does. With `soft_margin` all that take part do.

    Returns:
        Terms (1, a), weighing the positive pairs of each anchor, or its active triplets; an anchor without negatives
        adds 0.

    Source: Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, equation 2, and section 3.2 for semihard: d_ij < d_ik
    there, so that a tie is hard; Xuan, Stylianou & Pless, "Improved Embeddings with Easy Positive Triplet Mining", WACV
    2020; normalised as in Ko & Gu, CVPR 2020, equation 1. Differs from the source: every semihard negative takes part,
    none is drawn.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    positive_mask = pairs.positive_mask if mining != "easy_positive" else _closest(pairs)
    apart = squared_distance if squared else distance
    near, away = apart(pairs.positive), apart(negative)
    if soft_margin:
        tie = -rounding(near)
        reach = {"hard": (tie, torch.inf), "semihard": (tie - margin, tie)}.get(mining, (-torch.inf, torch.inf))
        total, count = sum_over_negatives("softplus", near, away, positive_mask, negative_mask, *reach)
        total, count = total.sum(dim=1), count.sum(dim=1)
    else:
        total, count = _hinges(near, away, positive_mask, negative_mask, margin, mining)
    weight = count if average == "active" else positive_mask.sum(dim=1).to(near.dtype)
    return Terms(total[None], weight[None])


def _closest(pairs: Pairs) -> Bool[Tensor, "a p"]:
    """The closest positive of every anchor."""
    closest = torch.where(pairs.positive_mask, pairs.positive, -torch.inf).argmax(dim=1, keepdim=True)
    return pairs.positive_mask & torch.zeros_like(pairs.positive_mask).scatter(1, closest, True)


def _hinges(
    near: Float[Tensor, "a p"],
    away: Float[Tensor, "a m"],
    near_mask: Bool[Tensor, "a p"],
    away_mask: Bool[Tensor, "a m"],
    margin: float,
    mining: Mining,
) -> tuple[Float[Tensor, " a"], Float[Tensor, " a"]]:
    """The sum of [near - away + margin]_+ over the triplets that take part, and how many are above 0.

    A triplet counts where away lies between a lower and an upper bound that belong to the positive. Ties are hard, and
    hinges of 0 count nowhere, however these are rounded.
    """
    reach = near + margin
    with torch.no_grad():
        tie, end = near + rounding(near), reach - rounding(near)
        upper = torch.minimum(tie, end) if mining == "hard" else end
        of_near, of_away = _below(upper, away, near_mask, away_mask)
        if mining == "semihard":
            closer_near, closer_away = _below(torch.minimum(tie, end), away, near_mask, away_mask)
            of_near, of_away = of_near - closer_near, of_away - closer_away
        of_away *= away_mask  # here and not in the sum, which carries gradient: a table less is kept
    total = masked_sum(of_near * reach, near_mask) - (of_away * away).sum(dim=1)
    return total, masked_sum(of_near, near_mask)


def _below(upper: Tensor, away: Tensor, upper_mask: Tensor, away_mask: Tensor) -> tuple[Tensor, Tensor]:
    """`_below_in_rows` of some rows at a time: sorting takes four times the memory of what is sorted."""
    tables = upper, away, upper_mask, away_mask
    if torch.compiler.is_compiling():
        return _below_in_rows(*tables)
    smaller, larger = torch.empty_like(upper), torch.empty_like(away)
    for first in range(0, len(away), ROWS):
        rows = slice(first, first + ROWS)
        smaller[rows], larger[rows] = _below_in_rows(*(table[rows] for table in tables))
    return smaller, larger


def _below_in_rows(
    upper: Tensor, away: Tensor, upper_mask: Tensor, away_mask: Tensor
) -> tuple[Float[Tensor, "a p"], Float[Tensor, "a m"]]:
    """How many `away` are smaller than each `upper`, and how many `upper` are larger than each `away`."""
    sorted_upper = torch.where(upper_mask, upper, -torch.inf).sort(dim=1).values
    sorted_away = torch.where(away_mask, away, torch.inf).sort(dim=1).values
    smaller = torch.searchsorted(sorted_away, upper.contiguous(), right=False)
    larger = upper.shape[1] - torch.searchsorted(sorted_upper, away.contiguous(), right=True)
    return smaller.to(away.dtype), larger.to(away.dtype)


def hphn_triplet(pairs: Pairs, margin: float = 0.2, soft_margin: bool = False) -> Terms:
    """Triplet loss of the hardest positive and negative: [max over P_i of d_ij - min over N_i of d_ik + margin]_+.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: on distances, not squared.
        soft_margin: log(1 + exp(d_ij - d_ik)) instead; the margin is then not used.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive and a negative. Ties give the gradient of the first.

    Source: Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5
    (batch hard); Ko & Gu, CVPR 2020. Differs from the source: nothing.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    furthest_positive = distance(torch.where(pairs.positive_mask, pairs.positive, torch.inf).min(dim=1).values)
    negative = with_a_column(torch.where(negative_mask, negative, -torch.inf), -torch.inf)
    closest_negative = distance(negative.max(dim=1).values)
    counts = pairs.positive_mask.any(dim=1) & negative_mask.any(dim=1)
    gap = torch.where(counts, furthest_positive - closest_negative, 0)
    term = functional.softplus(gap) if soft_margin else functional.relu(gap + margin)
    return Terms(torch.where(counts, term, 0)[None], counts.to(term.dtype)[None])


class TripletLoss(PairLoss, function=triplet, metric="euclidean"):
    """Triplet loss (margin=0.2, mining="all", soft_margin=False, squared=True, average="all"); see `losses.triplet`."""

    @validates
    def __init__(
        self,
        margin: float = 0.2,
        mining: Mining = "all",
        soft_margin: bool = False,
        squared: bool = True,
        average: Average = "all",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            {"margin": margin, "mining": mining, "soft_margin": soft_margin, "squared": squared, "average": average},
            **options,
        )


class HPHNTripletLoss(PairLoss, function=hphn_triplet, metric="euclidean"):
    """Hard-positive hard-negative triplet loss (margin=0.2, soft_margin=False); see `losses.hphn_triplet`.

    Expanded, and trained from scratch, it lost 10 to 16 points of Recall@1 where it was measured (docs/results.md): the
    loss sees nothing but the hardest negative, and that was a synthetic point nearly always.
    """

    @validates
    def __init__(self, margin: float = 0.2, soft_margin: bool = False, **options: Unpack[Options]) -> None:
        super().__init__({"margin": margin, "soft_margin": soft_margin}, **options)
