"""Losses on triplets of an anchor, a positive and a negative.

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
    count_of,
    distance,
    negatives_of_anchors,
    squared_distance,
    with_a_column,
)

ROWS = 256  # rows of a table to count at a time
FEW = 16  # positives of an anchor up to which comparing them with all negatives is faster than sorting: 7 times with 7
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

    The function never lists all triplets. It counts the active ones, by sorting if classes are large; their sum is
    linear in the distances. It needs as much memory as the table.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: the margin on squared distances, or on distances if `squared` is False.
        mining: the triplets to use. "all" uses all of them; "hard" those whose negative is at most as far away as the
            positive; "semihard" those whose negative is further away than the positive, but by at most the margin;
            "easy_positive" those with the closest positive of the anchor. Distances that differ only by rounding count
            as equal.
        soft_margin: use log(1 + exp(d_ij - d_ik)) instead of the hinge; the margin then only defines "semihard".
        squared: use squared distances; False uses distances, as pytorch-metric-learning does.
        average: "all" divides by the number of positive pairs, as in the paper; "active" divides by the number of
            triplets with a hinge above 0, as in pytorch-metric-learning. With `soft_margin` all used triplets are
            active.

    Returns:
        Terms (1, a). The weight of an anchor is its number of positive pairs, or of active triplets; without negatives
        its total is 0.

    Source: Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, equation 2, and section 3.2 for semihard, where
    d_ij < d_ik makes a tie hard; Xuan, Stylianou & Pless, "Improved Embeddings with Easy Positive Triplet Mining", WACV
    2020; normalised as in Ko & Gu, CVPR 2020, equation 1. Differs from the source: all semihard negatives are used, and
    not one drawn at random.
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
    weight = count if average == "active" else count_of(positive_mask, pairs)
    return Terms(total[None], weight[None])


def _closest(pairs: Pairs) -> Bool[Tensor, "a p"]:
    """The mask of the closest positive of every anchor."""
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
    """The sum of [near - away + margin]_+ over the triplets of each anchor, and the number of those above 0.

    A triplet counts if `away` is below an upper bound and, for "semihard", not below a lower bound; both bounds depend
    on the positive. Ties are hard. Hinges of 0 do not count, regardless of rounding.
    """
    reach = near + margin
    with torch.no_grad():
        end = reach - rounding(near)
        hard = end if mining == "all" else torch.minimum(near + rounding(near), end)
        of_near, of_away = _below(hard if mining == "hard" else end, away, near_mask, away_mask)
        if mining == "semihard":
            closer_near, closer_away = _below(hard, away, near_mask, away_mask)
            of_near, of_away = of_near - closer_near, of_away - closer_away
        of_near *= near_mask
        of_away *= away_mask  # not in the sum below, where autograd would save one more table
    return (of_near * reach).sum(dim=1) - (of_away * away).sum(dim=1), of_near.sum(dim=1)


def _below(upper: Tensor, away: Tensor, upper_mask: Tensor, away_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Calls `_below_in_rows` for some rows at a time, because it takes several times the memory of its input."""
    tables = upper, away, upper_mask, away_mask
    if torch.compiler.is_compiling() or len(away) <= ROWS:
        return _below_in_rows(*tables)
    smaller, larger = torch.empty_like(upper), torch.empty_like(away)
    for first in range(0, len(away), ROWS):
        rows = slice(first, first + ROWS)
        smaller[rows], larger[rows] = _below_in_rows(*(table[rows] for table in tables))
    return smaller, larger


def _below_in_rows(
    upper: Tensor, away: Tensor, upper_mask: Tensor, away_mask: Tensor
) -> tuple[Float[Tensor, "a p"], Float[Tensor, "a m"]]:
    """Counts, in each row, the `away` smaller than each `upper`, and the `upper` larger than each `away`."""
    if not torch.compiler.is_compiling() and upper.shape[1] <= FEW:
        upper, away = upper.masked_fill(~upper_mask, -torch.inf), away.masked_fill(~away_mask, torch.inf)
        below = away[:, None] < upper[:, :, None]
        return below.sum(dim=2).to(away.dtype), below.sum(dim=1).to(away.dtype)
    sorted_upper = torch.where(upper_mask, upper, -torch.inf).sort(dim=1).values
    sorted_away = torch.where(away_mask, away, torch.inf).sort(dim=1).values
    smaller = torch.searchsorted(sorted_away, upper.contiguous(), right=False)
    larger = upper.shape[1] - torch.searchsorted(sorted_upper, away.contiguous(), right=True)
    return smaller.to(away.dtype), larger.to(away.dtype)


def hphn_triplet(pairs: Pairs, margin: float = 0.2, soft_margin: bool = False) -> Terms:
    """Triplet loss of the hardest positive and negative: [max over P_i of d_ij - min over N_i of d_ik + margin]_+.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: the margin on distances, not squared.
        soft_margin: use log(1 + exp(d_ij - d_ik)) instead of the hinge; the margin is then ignored.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive and a negative. In a tie the first gets the gradient.

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

    With expansion and training from scratch, it lost 10 to 16 points of Recall@1 in our measurements (docs/results.md).
    The loss reads only the hardest negative, which was nearly always a synthetic point.
    """

    @validates
    def __init__(self, margin: float = 0.2, soft_margin: bool = False, **options: Unpack[Options]) -> None:
        super().__init__({"margin": margin, "soft_margin": soft_margin}, **options)
