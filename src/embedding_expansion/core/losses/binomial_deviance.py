"""Binomial deviance: a smooth contrastive loss around one similarity."""

from __future__ import annotations

from typing import Unpack

from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, negatives_of_anchors, two_means


def binomial_deviance(pairs: Pairs, alpha: float = 2.0, beta: float = 0.5, cost: float = 25.0) -> Terms:
    """Binomial deviance: the mean over P of log(1 + exp(-alpha (s_ij - beta))), plus a mean over N.

    The second mean is of log(1 + exp(alpha cost (s_ik - beta))) over the negative pairs.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        alpha: the sharpness of both terms.
        beta: the similarity that positives should exceed and negatives should not reach.
        cost: the factor on the similarities of negatives relative to those of positives (C in the paper).

    Returns:
        Terms (2, a). The weights of an anchor are its numbers of positive and of negative pairs.

    Source: Yi, Lei & Li, "Deep Metric Learning for Practical Person Re-Identification", 2014, the binomial deviance
    with the asymmetric cost C; the defaults are those of Ustinova & Lempitsky, NIPS 2016, section 4. Differs from the
    source: nothing.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    pull = functional.softplus(-alpha * (pairs.positive - beta))
    push = functional.softplus(alpha * cost * (negative - beta))
    return two_means(pull, pairs.positive_mask, push, negative_mask)


class BinomialDevianceLoss(PairLoss, function=binomial_deviance, metric="inner", positive=("alpha", "cost")):
    """Binomial deviance (alpha=2.0, beta=0.5, cost=25.0); see `losses.binomial_deviance`."""

    @validates
    def __init__(self, alpha: float = 2.0, beta: float = 0.5, cost: float = 25.0, **options: Unpack[Options]) -> None:
        super().__init__({"alpha": alpha, "beta": beta, "cost": cost}, **options)
