"""Losses with a softmax over an anchor's positives and negatives: NT-Xent, SupCon, NCA, tuplet margin, circle.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.losses.logarithmic import n_pair
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs, rounding
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import (
    Terms,
    count_of,
    logaddexp,
    masked_logsumexp,
    masked_sum,
    negatives_of_anchors,
    positive_pairs,
)

Objective: TypeAlias = Literal["log", "probability"]
ON_THE_CIRCLE = 1e-7  # an angle has no gradient if its cosine is within this, or within rounding, of 1 or -1


def nt_xent(pairs: Pairs, temperature: float = 0.07) -> Terms:
    """NT-Xent, or InfoNCE: 1/|P| sum over P of -log(exp(s_ij / t) / (exp(s_ij / t) + sum over N_i of exp(s_ik / t))).

    Other positives are not in the denominator. It is `n_pair` with the scale 1 / temperature.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        temperature: t, above 0.

    Returns:
        Terms (1, a). The weight of an anchor is its number of positive pairs; without negatives its total is 0.

    Source: van den Oord, Li & Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018, equation 4;
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), ICML 2020, equation
    1. Differs from the source: an anchor may have any number of positives, and each forms a separate pair.
    """
    return n_pair(pairs, scale=1 / temperature)


def sup_con(pairs: Pairs, temperature: float = 0.1) -> Terms:
    """Supervised contrastive loss: the mean over anchors of -1/|P_i| sum over P_i of log softmax(s / t) at j.

    The softmax is over the anchor's positives and negatives.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        temperature: t, above 0.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, equation 2 (L_out). Its denominator A(i)
    contains positives and negatives, so the loss of a batch of one class is not 0. Differs from the source: anchors
    without positives are left out of the mean.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    positive = pairs.positive / temperature
    everything = logaddexp(
        masked_logsumexp(positive, pairs.positive_mask), masked_logsumexp(negative / temperature, negative_mask)
    )
    count = count_of(pairs.positive_mask, pairs)
    counts = count.clamp(max=1)
    total = counts * everything - masked_sum(positive, pairs.positive_mask) / count.clamp(min=1)
    return Terms(total[None], counts[None])


def nca(pairs: Pairs, scale: float = 1.0, objective: Objective = "log") -> Terms:
    """Neighbourhood components analysis: the mean over anchors of -log p_i, for the share p_i of P_i in the softmax.

    The softmax is over the anchor's positives and negatives, of -scale d^2.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        scale: multiplies the squared distances (the source has no scale, because its linear map can scale).
        objective: "log" is -log p_i, "probability" is 1 - p_i.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Goldberger et al., "Neighbourhood Components Analysis", NIPS 2004, equations 2 to 4 ("probability") and
    section 2 (the sum of log p_i). Differs from the source: a mean to be minimised instead of a sum to be maximised.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    # In -scale d^2 = 2 scale s - 2 scale the constant cancels in p_i.
    near = masked_logsumexp(2 * scale * pairs.positive, pairs.positive_mask)
    away = masked_logsumexp(2 * scale * negative, negative_mask)
    counts = count_of(pairs.positive_mask, pairs).clamp(max=1)
    gap = counts * (away - near)
    term = functional.softplus(gap) if objective == "log" else gap.sigmoid()
    return Terms((counts * term)[None], counts[None])


def tuplet_margin(pairs: Pairs, margin: float = 5.73, scale: float = 64.0) -> Terms:
    """Tuplet margin loss: 1/|P| sum over P of log(1 + sum over N_i of exp(scale (cos a_ik - cos(a_ij - margin)))).

    a is the angle between two rows, which must be unit vectors. The angle between two copies of an image is exactly 0.

    Args:
        pairs: from `compare` or `expand`, metric "inner" (for unit vectors "euclidean" is the same).
        margin: the margin on the angle, in degrees.
        scale: multiplies the cosines.

    Returns:
        Terms (1, a). The weight of an anchor is its number of positive pairs; without negatives its total is 0. The
        gradient of an angle is set to 0 where the cosine is within 1e-7 (in float32 1e-6) of 1 or -1, because it grows
        without bound there.

    Source: Yu & Tao, "Deep Metric Learning with Tuplet Margin Loss", ICCV 2019, equation 4. Differs from the source:
    every point of another class is a negative, not one per class; the intra-pair variance is a separate loss, see
    `intra_pair_variance`.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    against = masked_logsumexp(scale * negative, negative_mask)
    term = functional.softplus(against[:, None] - scale * _cosine_minus_margin(pairs.positive, math.radians(margin)))
    return Terms(masked_sum(term, pairs.positive_mask)[None], positive_pairs(pairs))


def _cosine_minus_margin(similarity: Float[Tensor, "a p"], angle: float) -> Float[Tensor, "a p"]:
    """cos(a - angle) for the angle a of each similarity, without gradient where a is close to 0 or pi."""
    cosine = similarity.clamp(-1, 1)
    with torch.no_grad():
        off = 1 - cosine.abs()
        steep = off <= max(ON_THE_CIRCLE, rounding(off))
        exact = torch.where(off <= rounding(off), cosine.sign(), cosine)
        fixed = math.cos(angle) * exact + math.sin(angle) * (1 - exact * exact).sqrt()
    flat = torch.where(steep, 0, cosine)
    return torch.where(steep, fixed, math.cos(angle) * flat + math.sin(angle) * (1 - flat * flat).sqrt())


def circle(pairs: Pairs, margin: float = 0.4, scale: float = 80.0) -> Terms:
    """Circle loss: the mean over anchors of log(1 + sum over P_i of exp(l_ij) x sum over N_i of exp(l_ik)).

        l_ij = -scale [1 + margin - s_ij]_+ (s_ij - 1 + margin),   l_ik = scale [s_ik + margin]_+ (s_ik - margin)

    The weights in square brackets carry no gradient.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        margin: the relaxation margin, m in the paper.
        scale: the scale factor, gamma in the paper.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive and a negative.

    Source: Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity Optimization", CVPR 2020, equations 4 to
    8, and 10 for the gradient. Differs from the source: nothing.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    pull = functional.relu(scale * (1 + margin) - scale * pairs.positive.detach()) * (1 - margin - pairs.positive)
    push = functional.relu(scale * margin + scale * negative.detach()) * (negative - margin)
    gap = masked_logsumexp(pull, pairs.positive_mask) + masked_logsumexp(push, negative_mask)
    counts = (pairs.positive_mask.any(dim=1) & negative_mask.any(dim=1)).to(gap.dtype)
    return Terms(functional.softplus(gap)[None], counts[None])


class CircleLoss(PairLoss, function=circle, metric="inner", positive=("scale",), monotone=False):
    """Circle loss (margin=0.4, scale=80.0); see `losses.circle`, and PairLoss for the options."""

    @validates
    def __init__(self, margin: float = 0.4, scale: float = 80.0, **options: Unpack[Options]) -> None:
        super().__init__({"margin": margin, "scale": scale}, **options)


class SupConLoss(PairLoss, function=sup_con, metric="inner", positive=("temperature",)):
    """Supervised contrastive loss (temperature=0.1); see `losses.sup_con`, and PairLoss for the options."""

    @validates
    def __init__(self, temperature: float = 0.1, **options: Unpack[Options]) -> None:
        super().__init__({"temperature": temperature}, **options)


class NTXentLoss(PairLoss, function=nt_xent, metric="inner", positive=("temperature",)):
    """NT-Xent, or InfoNCE (temperature=0.07); see `losses.nt_xent`, and PairLoss for the options."""

    @validates
    def __init__(self, temperature: float = 0.07, **options: Unpack[Options]) -> None:
        super().__init__({"temperature": temperature}, **options)


class NCALoss(PairLoss, function=nca, metric="euclidean", positive=("scale",)):
    """Neighbourhood components analysis (scale=1.0, objective="log"); see `losses.nca`."""

    @validates
    def __init__(self, scale: float = 1.0, objective: Objective = "log", **options: Unpack[Options]) -> None:
        super().__init__({"scale": scale, "objective": objective}, **options)


class TupletMarginLoss(PairLoss, function=tuplet_margin, metric="inner", positive=("scale",)):
    """Tuplet margin loss (margin=5.73 degrees, scale=64.0); see `losses.tuplet_margin`."""

    @validates
    def __init__(self, margin: float = 5.73, scale: float = 64.0, **options: Unpack[Options]) -> None:
        super().__init__({"margin": margin, "scale": scale}, **options)
