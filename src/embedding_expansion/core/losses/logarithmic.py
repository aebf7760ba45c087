"""Losses of logarithms of sums of exponentials: N-pair, lifted structure and its general form, multi-similarity.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import (
    Terms,
    distance,
    logaddexp,
    masked_logsumexp,
    masked_sum,
    negatives_of_anchors,
    positive_pairs,
)
from embedding_expansion.errors import InvalidInput


def n_pair(pairs: Pairs, scale: float = 1.0) -> Terms:
    """N-pair loss: 1/|P| sum over (i, j) in P of log(1 + sum over k in N_i of exp(scale (s_ik - s_ij))).

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        scale: multiplies the similarities (an inverse temperature).

    Returns:
        Terms (1, a), weighing the positive pairs of each anchor; an anchor without negatives adds 0 to them.

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016, equation 4. Differs
    from the source: every other point is a negative, not one per class; similarities of normalised embeddings are
    scaled instead of regularising the norm.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    against = masked_logsumexp(scale * negative, negative_mask)
    term = functional.softplus(against[:, None] - scale * pairs.positive)
    return Terms(masked_sum(term, pairs.positive_mask)[None], positive_pairs(pairs))


def lifted_structure(pairs: Pairs, margin: float = 1.0) -> Terms:
    """Lifted structure loss: 1/(2|P|) sum over P of [log(sum of exp(margin - d) over N_i and N_j) + d_ij]_+^2.

    Where the negatives belong to the class (`pairs.per_class`, expansion in class-pair scope), both ends of a positive
    pair share them and they count once; elsewhere the partner's row joins the anchor's.

    Args:
        pairs: from `compare` or `expand` with partners, metric "euclidean".
        margin: distance that negatives should keep.

    Returns:
        Terms (1, a), weighing the positive pairs of each anchor; an anchor without negatives adds 0 to them.

    Raises:
        InvalidInput: if the pairs hold no partners and are not per class.

    Compared with a reference, N_j are the reference's rows of other classes than j, as N_i are.

    Source: Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, equation 4; Ko
    & Gu, CVPR 2020. Differs from the source: nothing. In a batch of one class the sum is empty, its logarithm minus
    infinity, and the hinge 0.
    """
    row = masked_logsumexp(margin - distance(pairs.negative), pairs.negative_mask)
    against = row[: len(pairs.positive), None]
    if not pairs.per_class:
        if pairs.partner is None:
            raise InvalidInput("lifted_structure needs both ends' negatives; make the pairs with partners=True")
        against = logaddexp(against, row[pairs.partner])
    term = functional.relu(against + distance(pairs.positive)).square() / 2
    return Terms(masked_sum(term, pairs.positive_mask)[None], positive_pairs(pairs))


def generalized_lifted_structure(pairs: Pairs, margin: float = 1.0, positive_margin: float = 0.0) -> Terms:
    """Generalised lifted structure loss: mean over anchors of a hinge of all positives against all negatives.

        [log sum over P_i of exp(d_ij - positive_margin) + log sum over N_i of exp(margin - d_ik)]_+

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: distance that negatives should keep.
        positive_margin: distance that positives may keep; 0 in the paper.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive and a negative.

    Source: Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2
    (L_LG). Differs from the source: nothing. Without positives or without negatives a logarithm is minus infinity, the
    hinge 0, and the anchor is not counted.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    pull = masked_logsumexp(distance(pairs.positive) - positive_margin, pairs.positive_mask)
    push = masked_logsumexp(margin - distance(negative), negative_mask)
    counts = pairs.positive_mask.any(dim=1) & negative_mask.any(dim=1)
    return Terms(functional.relu(torch.where(counts, pull + push, 0))[None], counts.to(pull.dtype)[None])


def multi_similarity(pairs: Pairs, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> Terms:
    """Multi-similarity loss: the mean over anchors of a soft pull and a soft push around a base similarity.

        1/alpha log(1 + sum over P_i of exp(-alpha (s_ij - base)))
        + 1/beta log(1 + sum over N_i of exp(beta (s_ik - base)))

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        alpha: sharpness of the positive term.
        beta: sharpness of the negative term.
        base: the similarity around which pairs are weighed (lambda in the papers).

    Returns:
        Terms (1, a), weight 1 for every anchor, also one without positives or negatives.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019, equation 15. Differs from the
    source: no pair mining here; for that give the module the miner `MultiSimilarityMiner`.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    pull = functional.softplus(masked_logsumexp(-alpha * (pairs.positive - base), pairs.positive_mask)) / alpha
    push = functional.softplus(masked_logsumexp(beta * (negative - base), negative_mask)) / beta
    return Terms((pull + push)[None], torch.ones_like(pull)[None])


class NPairLoss(PairLoss, function=n_pair, metric="inner", positive=("scale",)):
    """N-pair loss (scale=1.0); see `losses.n_pair`, and PairLoss for the options."""

    @validates
    def __init__(self, scale: float = 1.0, **options: Unpack[Options]) -> None:
        super().__init__({"scale": scale}, **options)


class LiftedStructureLoss(PairLoss, function=lifted_structure, metric="euclidean", reads_partner=True):
    """Lifted structure loss (margin=1.0); see `losses.lifted_structure`, and PairLoss for the options."""

    @validates
    def __init__(self, margin: float = 1.0, **options: Unpack[Options]) -> None:
        super().__init__({"margin": margin}, **options)


class GeneralizedLiftedStructureLoss(PairLoss, function=generalized_lifted_structure, metric="euclidean"):
    """Generalised lifted structure loss (margin=1.0, positive_margin=0.0); see `generalized_lifted_structure`."""

    @validates
    def __init__(self, margin: float = 1.0, positive_margin: float = 0.0, **options: Unpack[Options]) -> None:
        super().__init__({"margin": margin, "positive_margin": positive_margin}, **options)


class MultiSimilarityLoss(PairLoss, function=multi_similarity, metric="inner", positive=("alpha", "beta")):
    """Multi-similarity loss (alpha=2.0, beta=50.0, base=0.5); see `losses.multi_similarity`.

    With `miner=MultiSimilarityMiner()` as in its paper, without by default as in that of embedding expansion.
    """

    @validates
    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, **options: Unpack[Options]) -> None:
        super().__init__({"alpha": alpha, "beta": beta, "base": base}, **options)
