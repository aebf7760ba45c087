"""Losses that approximate a measure of the ranking: FastAP, SmoothAP, Recall@K.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.losses.pairwise import sum_over_negatives
from embedding_expansion.core.losses.soft_histogram import soft_histogram
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, count_of, masked_sum, negatives_of_anchors


def fast_ap(pairs: Pairs, bins: int = 10) -> Terms:
    """FastAP: the mean over anchors of 1 - 1/|P_i| sum over r of h+_r H+_r / H_r, average precision on a histogram.

    h+ is the soft histogram of the squared distances to the positives, H+ is its running sum, and H is the running sum
    of the histogram over positives and negatives.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean", of unit vectors.
        bins: the number of bins between squared distances of 0 and 4; every distance is shared between the two nearest
            edges.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Cakir et al., "Deep Metric Learning to Rank", CVPR 2019, equations 8 to 10. Differs from the source:
    anchors without positives are left out of the mean.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    # A squared distance from 0 to 4 is a similarity from 1 to -1.
    positives = soft_histogram(pairs.positive, pairs.positive_mask, bins, 1.0, -1.0)
    negatives = soft_histogram(negative, negative_mask, bins, 1.0, -1.0)
    above, everything = _running_sum(torch.stack([positives, positives + negatives], dim=1)).unbind(dim=1)
    precision = above / (everything + (everything == 0))
    count = count_of(pairs.positive_mask, pairs)
    counts = count.clamp(max=1)
    return Terms((counts - (positives * precision).sum(dim=1) / count.clamp(min=1))[None], counts[None])


def _running_sum(histogram: Float[Tensor, "a k edges"]) -> Float[Tensor, "a k edges"]:
    """The cumulative sum over edges.

    torch.compile needs a form without `torch.cumsum`, whose backward pass branches on the number of anchors.
    """
    if not torch.compiler.is_compiling():
        return histogram.cumsum(dim=2)
    edges = histogram.shape[2]
    return (histogram[..., None] * histogram.new_ones(edges, edges).triu()).sum(dim=2)


def smooth_ap(pairs: Pairs, temperature: float = 0.01, query_counts: bool = False) -> Terms:
    """Smooth AP: the mean over anchors of 1 - 1/|P_i| sum over P_i of (1 + R+_ij) / (1 + R+_ij + R-_ij).

    R+_ij and R-_ij are the soft numbers of positives and of negatives ranked before j: sums of
    sigmoid((s_ik - s_ij) / temperature) over k.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        temperature: the temperature of the sigmoid, above 0.
        query_counts: count the anchor itself as one more positive, with similarity 1, as the authors' program and
            pytorch-metric-learning do.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Brown et al., "Smooth-AP: Smoothing the Path Towards Large-Scale Image Retrieval", ECCV 2020, equation 4.
    Differs from the source: nothing.
    """
    positive, mask = pairs.positive, pairs.positive_mask
    count = count_of(mask, pairs)
    counts = count.clamp(max=1)
    if query_counts:
        positive = torch.cat([positive, torch.ones_like(positive[:, :1])], dim=1)
        mask, count = torch.cat([mask, counts[:, None] > 0], dim=1), count + counts
    before, wrong = _ranked_before(pairs, positive, mask, temperature)
    rank = 1 + before
    precision = rank / (rank + wrong)
    return Terms((counts - masked_sum(precision, mask) / count.clamp(min=1))[None], counts[None])


def recall_at_k(
    pairs: Pairs,
    ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    rank_temperature: float = 1.0,
    temperature: float = 0.01,
    form: Literal["equation", "program"] = "equation",
) -> Terms:
    """Recall@K surrogate: the mean over anchors and K of 1 - 1/|P_i| sum over P_i of sigmoid((K - r_ij) / t_1).

    r_ij, the soft rank of positive j, is 1 + the sum over all other rows k of sigmoid((s_ik - s_ij) / t_2). For an
    anchor with more than K positives the loss is at least about 1 - K/|P_i|. The authors' program computes

        1 - 1/min(K, |P_i|) min(K, sum over P_i of sigmoid((K - r_ij) / (t_1 K)))

    where r_ij also counts the anchor itself, with similarity 1.

    Args:
        pairs: from `compare` or `expand`, metric "inner"; of unit vectors if `form` is "program".
        ks: the values of K.
        rank_temperature: t_1, the temperature of the step at rank K, above 0.
        temperature: t_2, the temperature of the ranks, above 0.
        form: "equation" is the formula of the paper, "program" that of the authors' program.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive.

    Source: Patel, Tolias & Matas, "Recall@k Surrogate Loss with Large Batches and Similarity Mixup", CVPR 2022,
    equations 4 to 7, and github.com/yash0307/RecallatK_surrogate, src/losses.py. Differs from the source: similarity
    mixup is omitted, because embedding expansion takes its place; "program" accepts classes of any size, and does not
    change a K that exceeds the size of the batch.
    """
    before, wrong = _ranked_before(pairs, pairs.positive, pairs.positive_mask, temperature)
    rank = 1 + before + wrong
    count, program = count_of(pairs.positive_mask, pairs), form == "program"
    if program:
        rank = rank + ((1 - pairs.positive) / temperature).sigmoid()
    k = torch.tensor(ks, dtype=rank.dtype, device=rank.device)[:, None]
    step = rank_temperature * k[..., None] if program else rank_temperature
    reached = (((k[..., None] - rank) / step).sigmoid() * pairs.positive_mask).sum(dim=2)
    if program:
        recall = torch.minimum(reached, k) / torch.minimum(count.clamp(min=1), k)
    else:
        recall = reached / count.clamp(min=1)
    counts = count.clamp(max=1)
    return Terms((counts - recall.mean(dim=0))[None], counts[None])


def _ranked_before(
    pairs: Pairs, positive: Float[Tensor, "a p"], mask: Bool[Tensor, "a p"], temperature: float
) -> tuple[Float[Tensor, "a p"], Float[Tensor, "a p"]]:
    """The soft numbers of other positives and of negatives ranked before each positive."""
    negative, negative_mask = negatives_of_anchors(pairs)
    near, away = positive / -temperature, negative / -temperature
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
