"""Losses of hinges on the distances of pairs: contrastive and margin loss.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.terms import Terms, active, distance, masked_sum, negatives_of_anchors, squared_distance

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
