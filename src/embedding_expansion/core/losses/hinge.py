"""Losses with hinges on the distances of pairs: contrastive and margin loss.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.checks import as_limit, as_number
from embedding_expansion.core.batch import Batch
from embedding_expansion.core.inputs import check_classes, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import (
    Terms,
    active,
    count_of,
    distance,
    masked_sum,
    negatives_of_anchors,
    positive_pairs,
    square,
    squared_distance,
    two_means,
)
from embedding_expansion.errors import InvalidInput, InvalidType

Average: TypeAlias = Literal["all", "active"]
Count: TypeAlias = Literal["pairs", "triplets"]


def contrastive(pairs: Pairs, margin: float = 1.0, squared: bool = True, average: Average = "all") -> Terms:
    """Contrastive loss: mean over P of d_ij^2, plus mean over N of [margin - d_ik]_+^2.

    The two means are separate: an anchor without positives still counts in the second.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: the distance that negatives should keep.
        squared: square d_ij and [margin - d_ik]_+; False does not, as in pytorch-metric-learning.
        average: "all" averages over all pairs; "active" averages over pairs that add more than 0, as
            pytorch-metric-learning does. Two copies of an image are not active.

    Returns:
        Terms (2, a). The weights of an anchor are its numbers of positive and of negative pairs.

    Source: Hadsell, Chopra & LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4.
    Differs from the source: two means instead of one sum with halves.
    """
    positive_mask, (negative, negative_mask) = pairs.positive_mask, negatives_of_anchors(pairs)
    pull = (squared_distance if squared else distance)(pairs.positive)
    push = functional.relu(margin - distance(negative))
    if average == "active":
        positive_mask, negative_mask = positive_mask & active(pull), negative_mask & active(push)
    return two_means(pull, positive_mask, square(push) if squared else push, negative_mask)


def margin(pairs: Pairs, margin: float = 0.2, beta: float | Float[Tensor, " a"] = 1.2, count: Count = "pairs") -> Terms:
    """Margin loss: the mean over active pairs of [margin + d_ij - beta]_+ for P and [margin + beta - d_ik]_+ for N.

    A pair is active if its hinge is above 0. `MarginLoss` can learn beta. The paper draws negatives as
    `DistanceWeightedMiner` does.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: half the distance between the closest negative and the furthest positive at which both hinges are 0.
        beta: the boundary between positives and negatives: a number, or one number for each anchor.
        count: "pairs" counts each pair once. "triplets" multiplies each pair by the number of pairs of the other kind
            that its anchor has, as pytorch-metric-learning does.

    Returns:
        Terms (1, a). The weight of an anchor is its number of active pairs; "triplets" multiplies them in the same way.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, equation 5. Differs from the source:
    nothing; see `MarginLoss` for the regulariser of beta.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    boundary = beta[:, None] if isinstance(beta, Tensor) else beta
    pull, push = distance(pairs.positive) - (boundary - margin), (boundary + margin) - distance(negative)
    pulling, pushing = active(pull) & pairs.positive_mask, active(push) & negative_mask
    pulls, pushes = masked_sum(pull, pulling), masked_sum(push, pushing)
    if count == "pairs":
        return Terms((pulls + pushes)[None], count_of(torch.cat([pulling, pushing], dim=1), pairs)[None])
    p, m = count_of(pairs.positive_mask, pairs), count_of(negative_mask, pairs)
    return Terms((pulls * m + pushes * p)[None], (count_of(pulling, pairs) * m + count_of(pushing, pairs) * p)[None])


class ContrastiveLoss(PairLoss, function=contrastive, metric="euclidean"):
    """Contrastive loss (margin=1.0, squared=True, average="all"); see `losses.contrastive`."""

    @validates
    def __init__(
        self, margin: float = 1.0, squared: bool = True, average: Average = "all", **options: Unpack[Options]
    ) -> None:
        super().__init__({"margin": margin, "squared": squared, "average": average}, **options)


class MarginLoss(PairLoss, function=margin, metric="euclidean", positive=("beta",), monotone=False):
    """Margin loss (margin=0.2, beta=1.2, count="pairs") with an optional learnt boundary; see `losses.margin`.

    Args:
        margin, beta, count: as in `losses.margin`.
        learn_beta: make beta a parameter of the module. Give it a separate learning rate in the optimiser.
        num_classes: learn one beta per class, for labels from 0 to num_classes - 1; None: one beta for all classes.
        nu: the weight of a regulariser that keeps a learnt beta from growing. It adds nu times the anchor's beta to the
            sum of the hinges once per positive of the anchor; the sum is then divided by the number of active pairs.
            With count="triplets" the regulariser is that of pytorch-metric-learning: once per triplet with a beta per
            class, or nu times beta, not divided by a number of pairs, with one beta for all classes.
        **options: as in `PairLoss`.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4.2 for the regulariser nu, and
    the authors' program, which draws a triplet for each positive and divides both sums by the number of active pairs.
    Differs from the source: there is no beta per image.
    """

    @validates
    def __init__(
        self,
        margin: float = 0.2,
        beta: float = 1.2,
        count: Count = "pairs",
        *,
        learn_beta: bool = False,
        num_classes: int | None = None,
        nu: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__({"margin": margin, "beta": beta, "count": count}, **options)
        if not isinstance(learn_beta, bool):
            raise InvalidType(f"learn_beta of MarginLoss is {learn_beta!r}; pass True or False")
        classes = as_limit(num_classes, "num_classes")
        if classes is not None and not learn_beta:
            raise InvalidInput("num_classes is given, but learn_beta is False; pass learn_beta=True, or leave it out")
        self.nu, self.beta = as_number(nu, "nu of MarginLoss", least=0), None
        if learn_beta:
            self.beta = nn.Parameter(torch.full((classes or 1,), float(self.parameters_of_function["beta"])))

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """What each anchor adds, with the beta of its class and the regulariser."""
        if self.beta is None:
            return super().terms(pairs, batch)
        anchor_labels = batch.anchor_labels
        per_class = len(self.beta) > 1
        if per_class:
            check_classes(batch.labels, len(self.beta), "num_classes", batch.values)
        beta = self.beta[anchor_labels if per_class else torch.zeros_like(anchor_labels)]
        found = margin(pairs, **{**self.parameters_of_function, "beta": beta})
        if self.nu == 0:
            return found
        times = positive_pairs(pairs)
        if self.parameters_of_function["count"] == "triplets":
            times = times * negatives_of_anchors(pairs)[1].sum(dim=1)
            if len(self.beta) == 1:
                once = (times > 0).to(times.dtype)
                return Terms(torch.cat([found.total, self.nu * beta * once]), torch.cat([found.weight, once]))
        return Terms(found.total + self.nu * beta * times, found.weight)
