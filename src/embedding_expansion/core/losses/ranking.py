"""Losses that stand for a measure of the ranking: FastAP, SmoothAP, Recall@K.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.losses.pairwise import sum_over_negatives
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, masked_sum, negatives_of_anchors, squared_distance

FURTHEST = 4.0  # the squared distance of opposite unit vectors


def fast_ap(pairs: Pairs, bins: int = 10) -> Terms:
    """FastAP: the mean over anchors of 1 - 1/|P_i| sum over r of h+_r H+_r / H_r, average precision on a histogram.

    h+ is the soft histogram of the squared distances to the positives, H+ its running sum, H that of all.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean", of unit vectors.
        bins: how many, between squared distances of 0 and 4; every distance is shared between its two nearest edges.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Cakir et al., "Deep Metric Learning to Rank", CVPR 2019, equations 8 to 10. Differs from the source:
    anchors without positives are left out of the mean.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    positives = _histogram(squared_distance(pairs.positive), pairs.positive_mask, bins)
    above = _running_sum(positives)
    everything = above + _running_sum(_histogram(squared_distance(negative), negative_mask, bins))
    precision = above / torch.where(everything > 0, everything, 1)
    count = pairs.positive_mask.sum(dim=1)
    counts = (count > 0).to(above.dtype)
    return Terms((counts - (positives * precision).sum(dim=1) / count.clamp(min=1))[None], counts[None])


def _histogram(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"], bins: int) -> Float[Tensor, "a edges"]:
    """How many of the values lie near each edge, a value between two edges shared linearly."""
    place = values.clamp(max=FURTHEST) * (bins / FURTHEST)
    lower = place.detach().floor().clamp(max=bins - 1)
    share = place - lower
    edge = lower.long()
    found = values.new_zeros(len(values), bins + 1).scatter_add(1, edge, torch.where(mask, 1 - share, 0))
    return found.scatter_add(1, edge + 1, torch.where(mask, share, 0))


def _running_sum(histogram: Float[Tensor, "a edges"]) -> Float[Tensor, "a edges"]:
    """Edge by edge. Compiled, torch's own asks on its way back whether there is an anchor at all."""
    if not torch.compiler.is_compiling():
        return histogram.cumsum(dim=1)
    edges = histogram.shape[1]
    return (histogram[:, :, None] * histogram.new_ones(edges, edges).triu()).sum(dim=1)


def smooth_ap(pairs: Pairs, temperature: float = 0.01, query_counts: bool = False) -> Terms:
    """Smooth AP: the mean over anchors of 1 - 1/|P_i| sum over P_i of (1 + R+_ij) / (1 + R+_ij + R-_ij).

    R+_ij and R-_ij are the soft numbers of positives and of negatives ranked before j: sums of
    sigmoid((s_ik - s_ij) / temperature).

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        temperature: of the sigmoid, above 0.
        query_counts: the anchor itself is one more positive, of similarity 1, as in the authors' program and
            pytorch-metric-learning.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV 2020, equation 4.
    Differs from the source: nothing.
    """
    positive, mask = pairs.positive, pairs.positive_mask
    counts = mask.any(dim=1)
    if query_counts:
        positive = torch.cat([positive, torch.ones_like(positive[:, :1])], dim=1)
        mask = torch.cat([mask, counts[:, None]], dim=1)
    before, wrong = _ranked_before(pairs, positive, mask, temperature)
    precision = (1 + before) / (1 + before + wrong)
    total = counts.to(positive.dtype) - masked_sum(precision, mask) / mask.sum(dim=1).clamp(min=1)
    return Terms(total[None], counts.to(total.dtype)[None])


def recall_at_k(
    pairs: Pairs,
    ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    rank_temperature: float = 1.0,
    temperature: float = 0.01,
    form: Literal["equation", "program"] = "equation",
) -> Terms:
    """Recall@K surrogate: the mean over anchors and K of 1 - 1/|P_i| sum over P_i of sigmoid((K - r_ij) / t_1).

    r_ij, the soft rank of positive j, is 1 + the sum over all others of sigmoid((s_ik - s_ij) / t_2). An anchor with
    more than K positives keeps at least 1 - K/|P_i|. The authors' program computes

        1 - 1/min(K, |P_i|) min(K, sum over P_i of sigmoid((K - r_ij) / (t_1 K)))

    where the anchor itself, of similarity 1, is one of the others that r_ij counts.

    Args:
        pairs: from `compare` or `expand`, metric "inner"; of unit vectors where `form` is "program".
        ks: the K.
        rank_temperature: t_1, of the step at rank K, above 0.
        temperature: t_2, of the ranks, above 0.
        form: "equation", that of the paper, or "program", that of the authors' program.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Patel, Tolias & Matas, "Recall@k Surrogate Loss with Large Batches and Similarity Mixup", CVPR 2022,
    equations 4 to 7, and github.com/yash0307/RecallatK_surrogate, src/losses.py. Differs from the source: without its
    similarity mixup, for which embedding expansion stands here; "program" takes classes of any size, and a K above the
    size of the batch as it is.
    """
    before, wrong = _ranked_before(pairs, pairs.positive, pairs.positive_mask, temperature)
    rank = 1 + before + wrong
    count = pairs.positive_mask.sum(dim=1)
    if form == "program":
        rank = rank + ((1 - pairs.positive) / temperature).sigmoid()
    recall = torch.zeros_like(rank[:, 0])
    for k in ks:
        step = rank_temperature * k if form == "program" else rank_temperature
        reached = masked_sum(((k - rank) / step).sigmoid(), pairs.positive_mask)
        if form == "program":
            recall = recall + reached.clamp(max=k) / count.clamp(min=1, max=k)
        else:
            recall = recall + reached / count.clamp(min=1)
    counts = (count > 0).to(rank.dtype)
    return Terms((counts - recall / len(ks))[None], counts[None])


def _ranked_before(
    pairs: Pairs, positive: Float[Tensor, "a p"], mask: Bool[Tensor, "a p"], temperature: float
) -> tuple[Float[Tensor, "a p"], Float[Tensor, "a p"]]:
    """The soft numbers of other positives, and of negatives, that are ranked before each positive."""
    negative, negative_mask = negatives_of_anchors(pairs)
    near, away = -positive / temperature, -negative / temperature
    before, _ = sum_over_negatives("sigmoid", near, near, mask, mask)
    wrong, _ = sum_over_negatives("sigmoid", near, away, mask, negative_mask)
    return before - 0.5, wrong  # a positive is not ranked before itself, where the sigmoid is 1/2


class FastAPLoss(PairLoss, function=fast_ap, metric="euclidean", positive=("bins",)):
    """FastAP (bins=10); see `losses.fast_ap`, and PairLoss for the options."""

    @validates
    def __init__(self, bins: int = 10, **options: Unpack[Options]) -> None:
        super().__init__({"bins": bins}, **options)


class SmoothAPLoss(PairLoss, function=smooth_ap, metric="inner", positive=("temperature",)):
    """Smooth AP (temperature=0.01, query_counts=False); see `losses.smooth_ap`, and PairLoss for the options."""

    @validates
    def __init__(self, temperature: float = 0.01, query_counts: bool = False, **options: Unpack[Options]) -> None:
        super().__init__({"temperature": temperature, "query_counts": query_counts}, **options)


class RecallAtKLoss(PairLoss, function=recall_at_k, metric="inner", positive=("rank_temperature", "temperature")):
    """Recall@K surrogate (ks=(1, 2, 4, 8, 16), temperatures 1.0 and 0.01, form="equation"); see `recall_at_k`."""

    @validates
    def __init__(
        self,
        ks: tuple[int, ...] = (1, 2, 4, 8, 16),
        rank_temperature: float = 1.0,
        temperature: float = 0.01,
        form: Literal["equation", "program"] = "equation",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            {"ks": ks, "rank_temperature": rank_temperature, "temperature": temperature, "form": form}, **options
        )
