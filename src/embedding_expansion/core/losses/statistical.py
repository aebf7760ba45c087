"""Losses that look at the whole batch: intra-pair variance and histogram loss.

Their statistic is a sum over anchors, with gradient, so that row blocks and ranks add up to the batch's.
"""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, masked_sum, negatives_of_anchors


def pair_sums(pairs: Pairs) -> Float[Tensor, " 4"]:
    """Sum and number of the positives' similarities, sum and number of the negatives'."""
    return torch.stack(_sums(pairs))


def _sums(pairs: Pairs) -> tuple[Tensor, ...]:
    negative, negative_mask = negatives_of_anchors(pairs)
    return tuple(
        part
        for values, mask in ((pairs.positive, pairs.positive_mask), (negative, negative_mask))
        for part in (torch.where(mask, values, 0).sum(), mask.sum())
    )


def intra_pair_variance(
    pairs: Pairs,
    positive_epsilon: float = 0.01,
    negative_epsilon: float = 0.01,
    *,
    statistic: Float[Tensor, " 4"] | None = None,
) -> Terms:
    """Intra-pair variance loss: mean over P of [(1 - e) m+ - s_ij]_+^2, plus mean over N of [s_ik - (1 + e) m-]_+^2.

    m+ and m- are the batch's mean similarities of positives and of negatives. It is added to another loss.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        positive_epsilon: e of the positives.
        negative_epsilon: e of the negatives.
        statistic: `pair_sums` of the whole batch; by default of these pairs.

    Returns:
        Terms (2, a), weighing the positive and the negative pairs of each anchor.

    Source: Yu & Tao, "Deep Metric Learning with Tuplet Margin Loss", ICCV 2019, equations 8 and 9. Differs from the
    source: nothing.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    near, p, away, m = _sums(pairs) if statistic is None else statistic
    pull = functional.relu((1 - positive_epsilon) * near / p.clamp(min=1) - pairs.positive).square()
    push = functional.relu(negative - (1 + negative_epsilon) * away / m.clamp(min=1)).square()
    return Terms(
        torch.stack([masked_sum(pull, pairs.positive_mask), masked_sum(push, negative_mask)]),
        torch.stack([pairs.positive_mask.sum(dim=1), negative_mask.sum(dim=1)]).to(pull.dtype),
    )


def positive_histogram(pairs: Pairs, bins: int = 100) -> Float[Tensor, " edges"]:
    """The soft histogram of the positives' similarities, on bins + 1 edges from -1 to 1."""
    edge, share = _place(pairs.positive, bins)
    mask = pairs.positive_mask
    found = pairs.positive.new_zeros(bins + 1)
    found = found.scatter_add(0, edge.flatten(), torch.where(mask, 1 - share, 0).flatten())
    return found.scatter_add(0, edge.flatten() + 1, torch.where(mask, share, 0).flatten())


def _place(similarity: Float[Tensor, "a k"], bins: int) -> tuple[Tensor, Tensor]:
    """The edge below each similarity, and how far it is towards the next."""
    place = (similarity.clamp(-1, 1) + 1) * (bins / 2)
    edge = place.detach().floor().clamp(max=bins - 1)
    return edge.long(), place - edge


def histogram(pairs: Pairs, bins: int = 100, *, statistic: Float[Tensor, " edges"] | None = None) -> Terms:
    """Histogram loss: the probability that a random negative is more similar than a random positive.

    Read off the soft histogram of the batch's positives: the mean over N of its distribution function at s_ik.

    Args:
        pairs: from `compare` or `expand`, metric "inner", of unit vectors.
        bins: of the histogram, between similarities of -1 and 1.
        statistic: `positive_histogram` of the whole batch; by default of these pairs.

    Returns:
        Terms (1, a), weighing the negative pairs of each anchor.

    Source: Ustinova & Lempitsky, "Learning Deep Embeddings with Histogram Loss", NIPS 2016, equations 2 to 4. Differs
    from the source: the negatives' histogram is not made, the sum over it is taken pair by pair, which is the same.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    found = positive_histogram(pairs, bins) if statistic is None else statistic
    below = found.cumsum(dim=0) / found.detach().sum().round().clamp(min=1)
    edge, share = _place(negative, bins)
    reverse = (1 - share) * below[edge] + share * below[edge + 1]
    return Terms(masked_sum(reverse, negative_mask)[None], negative_mask.sum(dim=1).to(reverse.dtype)[None])


class IntraPairVarianceLoss(
    PairLoss, function=intra_pair_variance, metric="inner", statistic=pair_sums, monotone=False
):
    """Intra-pair variance loss (positive_epsilon=0.01, negative_epsilon=0.01); see `losses.intra_pair_variance`."""

    @validates
    def __init__(
        self, positive_epsilon: float = 0.01, negative_epsilon: float = 0.01, **options: Unpack[Options]
    ) -> None:
        super().__init__({"positive_epsilon": positive_epsilon, "negative_epsilon": negative_epsilon}, **options)


class HistogramLoss(PairLoss, function=histogram, metric="inner", statistic=positive_histogram, positive=("bins",)):
    """Histogram loss (bins=100); see `losses.histogram`, and PairLoss for the options."""

    @validates
    def __init__(self, bins: int = 100, **options: Unpack[Options]) -> None:
        super().__init__({"bins": bins}, **options)
