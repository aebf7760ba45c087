"""Losses of hinges on the distances of pairs: contrastive and margin loss.

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
    distance,
    masked_sum,
    negatives_of_anchors,
    positive_pairs,
    squared_distance,
)
from embedding_expansion.errors import InvalidInput, InvalidType

Average: TypeAlias = Literal["all", "active"]
Count: TypeAlias = Literal["pairs", "triplets"]


def contrastive(pairs: Pairs, margin: float = 1.0, squared: bool = True, average: Average = "all") -> Terms:
    """Contrastive loss: mean over P of d_ij^2, plus mean over N of [margin - d_ik]_+^2.

    Two means, each over its own pairs: an anchor without positives still counts in the second.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: distance that negatives should keep.
        squared: False takes d_ij and [margin - d_ik]_+ themselves, as pytorch-metric-learning does.
        average: "all" pairs, or those "active", that add something, as pytorch-metric-learning does: two copies of an
            image add nothing.

    Returns:
        Terms (2, a), weighing the positive and the negative pairs of each anchor.

    Source: Hadsell, Chopra & LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4.
    Differs from the source: two means instead of one sum with halves.
    """
    positive_mask, (negative, negative_mask) = pairs.positive_mask, negatives_of_anchors(pairs)
    pull = (squared_distance if squared else distance)(pairs.positive)
    push = functional.relu(margin - distance(negative))
    if average == "active":
        positive_mask, negative_mask = positive_mask & active(pull), negative_mask & active(push)
    push = push.square() if squared else push
    return Terms(
        torch.stack([masked_sum(pull, positive_mask), masked_sum(push, negative_mask)]),
        torch.stack([positive_mask.sum(dim=1), negative_mask.sum(dim=1)]).to(pull.dtype),
    )


def margin(pairs: Pairs, margin: float = 0.2, beta: float | Float[Tensor, " a"] = 1.2, count: Count = "pairs") -> Terms:
    """Margin loss: the mean over active pairs of [margin + d_ij - beta]_+ for P and [margin + beta - d_ik]_+ for N.

    A pair is active where its hinge is above 0. `MarginLoss` can learn beta; its paper draws negatives with
    `DistanceWeightedMiner`.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: half the distance between the closest negative and the furthest positive that cost nothing.
        beta: the boundary between positives and negatives: a number, or one for each anchor.
        count: "pairs" takes each pair once; "triplets" takes it as often as the anchor has pairs of the other kind in
            the sum, and once in the count, as pytorch-metric-learning does.

    Returns:
        Terms (1, a), weighing the active pairs of each anchor.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, equation 5. Differs from the source:
    nothing; see `MarginLoss` for the regulariser of beta.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    boundary = beta[:, None] if isinstance(beta, Tensor) else beta
    pull = functional.relu(margin + distance(pairs.positive) - boundary)
    push = functional.relu(margin + boundary - distance(negative))
    pulls, pushes = masked_sum(pull, pairs.positive_mask), masked_sum(push, negative_mask)
    pulling, pushing = (active(pull) & pairs.positive_mask).sum(dim=1), (active(push) & negative_mask).sum(dim=1)
    if count == "triplets":
        p, m = pairs.positive_mask.sum(dim=1), negative_mask.sum(dim=1)
        pulls, pushes, pulling, pushing = pulls * m, pushes * p, pulling * m, pushing * p
    return Terms((pulls + pushes)[None], (pulling + pushing).to(pulls.dtype)[None])


class ContrastiveLoss(PairLoss, function=contrastive, metric="euclidean"):
    """Contrastive loss (margin=1.0, squared=True, average="all"); see `losses.contrastive`."""

    @validates
    def __init__(
        self, margin: float = 1.0, squared: bool = True, average: Average = "all", **options: Unpack[Options]
    ) -> None:
        super().__init__({"margin": margin, "squared": squared, "average": average}, **options)


class MarginLoss(PairLoss, function=margin, metric="euclidean", positive=("beta",), monotone=False):
    """Margin loss (margin=0.2, beta=1.2, count="pairs") with a boundary that can be learnt; see `losses.margin`.

    Args:
        margin, beta, count: as in `losses.margin`.
        learn_beta: make beta a parameter of the module; its optimiser should have a rate of its own.
        num_classes: learn a beta for each class, labels being 0 to num_classes - 1; None: one for all.
        nu: weight of the regulariser of a learnt beta, which would else grow: nu times the anchor's beta joins the sum
            of the hinges once for each positive of the anchor, and is divided by the active pairs as they are. With
            count="triplets" it is pytorch-metric-learning's: once for each triplet where there is a beta for each
            class; undivided, nu times beta, where there is one for all.
        **options: those of PairLoss.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4.2, the problem that nu
    regularises, and the authors' program, which draws a triplet for each positive and divides both sums by the active
    pairs. Differs from the source: no beta for each image.
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
            raise InvalidInput("num_classes is given, but learn_beta is not; a beta for each class is a learnt one")
        self.nu, self.beta = as_number(nu, "nu of MarginLoss", least=0), None
        if learn_beta:
            self.beta = nn.Parameter(torch.full((classes or 1,), float(self.parameters_of_function["beta"])))

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """What each anchor adds, with its class's beta."""
        if self.beta is None:
            return super().terms(pairs, batch)
        anchor_labels = batch.anchor_labels
        check_classes(anchor_labels, len(self.beta), "num_classes") if len(self.beta) > 1 else None
        beta = self.beta[anchor_labels if len(self.beta) > 1 else torch.zeros_like(anchor_labels)]
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
