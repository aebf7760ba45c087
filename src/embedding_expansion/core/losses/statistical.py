"""Losses that depend on a statistic of the whole batch: intra-pair variance and histogram loss.

The statistic is a sum over anchors, with gradient. The sum over row blocks or ranks is therefore that of the batch.
"""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.losses.soft_histogram import soft_histogram
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, count_of, negatives_of_anchors, square, two_means


def pair_sums(pairs: Pairs) -> Float[Tensor, " 4"]:
    """The sum and number of the similarities of positives, then the sum and number of those of negatives."""
    return torch.stack(_sums(pairs))


def _sums(pairs: Pairs) -> tuple[Tensor, ...]:
    negative, negative_mask = negatives_of_anchors(pairs)
    return tuple(
        part
        for values, mask in ((pairs.positive, pairs.positive_mask), (negative, negative_mask))
        for part in ((values * mask).sum(), mask.sum(dtype=values.dtype))
    )


def intra_pair_variance(
    pairs: Pairs,
    positive_epsilon: float = 0.01,
    negative_epsilon: float = 0.01,
    *,
    statistic: Float[Tensor, " 4"] | None = None,
) -> Terms:
    """Intra-pair variance loss: mean over P of [(1 - e) m+ - s_ij]_+^2, plus mean over N of [s_ik - (1 + e) m-]_+^2.

    m+ and m- are the mean similarities of positives and of negatives in the batch. Add this loss to another loss.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        positive_epsilon: e for the positives.
        negative_epsilon: e for the negatives.
        statistic: `pair_sums` of the whole batch; by default of these pairs.

    Returns:
        Terms (2, a). The weights of an anchor are its numbers of positive and of negative pairs.

    Source: Yu & Tao, "Deep Metric Learning with Tuplet Margin Loss", ICCV 2019, equations 8 and 9. Differs from the
    source: nothing.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    near, p, away, m = _sums(pairs) if statistic is None else statistic
    pull = functional.relu((1 - positive_epsilon) * near / p.clamp(min=1) - pairs.positive)
    push = functional.relu(negative - (1 + negative_epsilon) * away / m.clamp(min=1))
    return two_means(square(pull), pairs.positive_mask, square(push), negative_mask)


def positive_histogram(pairs: Pairs, bins: int = 100) -> Float[Tensor, " edges"]:
    """The soft histogram of the similarities of positives, on bins + 1 edges from -1 to 1."""
    every, mask = pairs.positive.flatten()[None], pairs.positive_mask.flatten()[None]
    return soft_histogram(every, mask, bins, -1.0, 1.0)[0]


def histogram(pairs: Pairs, bins: int = 100, *, statistic: Float[Tensor, " edges"] | None = None) -> Terms:
    """Histogram loss: the probability that a random negative is more similar than a random positive.

    It is the mean over N, at s_ik, of the distribution function of the soft histogram of the batch's positives.

    Args:
        pairs: from `compare` or `expand`, metric "inner", of unit vectors.
        bins: the number of bins of the histogram, between similarities of -1 and 1.
        statistic: `positive_histogram` of the whole batch; by default of these pairs.

    Returns:
        Terms (1, a). The weight of an anchor is its number of negative pairs.

    Source: Ustinova & Lempitsky, "Learning Deep Embeddings with Histogram Loss", NIPS 2016, equations 2 to 4. Differs
    from the source: each anchor has a histogram of its negatives; their sum gives the same value.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    found = positive_histogram(pairs, bins) if statistic is None else statistic
    below = found.cumsum(dim=0) / found.detach().sum().round().clamp(min=1)
    # Not a product of matrices, which autocast would compute in half precision.
    reverse = (soft_histogram(negative, negative_mask, bins, -1.0, 1.0) * below).sum(dim=1)
    return Terms(reverse[None], count_of(negative_mask, pairs)[None])


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
