"""Losses with logarithms of sums of exponentials: N-pair, lifted structure, its general form, multi-similarity.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import (
    Terms,
    distance,
    half_squared_hinges,
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
        Terms (1, a). The weight of an anchor is its number of positive pairs; without negatives its total is 0.

    Source: Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016, equation 4. Differs
    from the source: every point of another class is a negative, not one per class; the similarities of normalised
    embeddings are scaled, and their norm is not regularised.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    against = masked_logsumexp(scale * negative, negative_mask)
    term = functional.softplus(against[:, None] - scale * pairs.positive)
    return Terms(masked_sum(term, pairs.positive_mask)[None], positive_pairs(pairs))


def lifted_structure(pairs: Pairs, margin: float = 1.0) -> Terms:
    """Lifted structure loss: 1/(2|P|) sum over P of [log(sum of exp(margin - d) over N_i and N_j) + d_ij]_+^2.

    If the anchors of a class share their negatives (`pairs.per_class`, as after expansion in class-pair scope), the
    negatives of both ends of a positive pair are the same and count once. Otherwise the sum runs over the negatives of
    both ends.

    Args:
        pairs: from `compare` or `expand` with partners, metric "euclidean".
        margin: the distance that negatives should keep.

    Returns:
        Terms (1, a). The weight of an anchor is its number of positive pairs; without negatives its total is 0.

    Raises:
        InvalidInput: if the pairs hold no partners and are not per class.

    With a reference, N_j consists of the rows of the reference with other labels than j, as N_i does.

    Source: Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, equation 4; Ko
    & Gu, CVPR 2020. Differs from the source: nothing. In a batch of one class the sum is empty, its logarithm is minus
    infinity, and the hinge is 0.
    """
    row = masked_logsumexp(margin - distance(pairs.negative), pairs.negative_mask)
    if pairs.per_class:
        against = row[: len(pairs.positive), None]
    elif pairs.partner is None:
        raise InvalidInput("lifted_structure needs both ends' negatives; make the pairs with partners=True")
    else:
        against = _of_both_ends(row, pairs.partner)
    total = half_squared_hinges(against + distance(pairs.positive), pairs.positive_mask)
    return Terms(total[None], positive_pairs(pairs))


def _of_both_ends(row: Float[Tensor, " r"], partner: Int[Tensor, "a p"]) -> Float[Tensor, "a p"]:
    """log(exp(row_i) + exp(row_j)) for each anchor i and the row j of each of its positives, twice differentiable."""
    if torch.compiler.is_compiling():
        return torch.logaddexp(row[: len(partner), None], row[partner])
    found: Tensor = _OfBothEnds.apply(row, partner)
    return found


class _OfBothEnds(torch.autograd.Function):
    """Shares the gradient between both ends. `torch.logaddexp` has no second derivative at the log of an empty sum."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, partner: Tensor) -> Tensor:
        found = torch.logaddexp(row[: len(partner), None], row[partner])
        ctx.save_for_backward(row, partner, found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        row, partner, found = ctx.saved_tensors
        of_anchor = (row[: len(partner), None] - found).exp() * gradient
        to_row, others = of_anchor.sum(dim=1), len(row) - len(partner)
        to_row = functional.pad(to_row, (0, others)) if others else to_row
        return to_row.index_add(0, partner.flatten(), (gradient - of_anchor).flatten()), None


def generalized_lifted_structure(pairs: Pairs, margin: float = 1.0, positive_margin: float = 0.0) -> Terms:
    """Generalised lifted structure loss: the mean over anchors of a hinge of all positives against all negatives.

        [log sum over P_i of exp(d_ij - positive_margin) + log sum over N_i of exp(margin - d_ik)]_+

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: the distance that negatives should keep.
        positive_margin: the distance that positives may keep; 0 in the paper.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive and a negative.

    Source: Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, section 2
    (L_LG). Differs from the source: nothing. For an anchor without positives or without negatives, a logarithm is minus
    infinity and the hinge is 0; the anchor does not count.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    pull = masked_logsumexp(distance(pairs.positive), pairs.positive_mask) - positive_margin
    push = masked_logsumexp(margin - distance(negative), negative_mask)
    counts = (pairs.positive_mask.any(dim=1) & negative_mask.any(dim=1)).to(pull.dtype)
    return Terms(functional.relu(pull + push)[None], counts[None])


def multi_similarity(pairs: Pairs, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> Terms:
    """Multi-similarity loss: the mean over anchors of a soft pull and a soft push around a base similarity.

        1/alpha log(1 + sum over P_i of exp(-alpha (s_ij - base)))
        + 1/beta log(1 + sum over N_i of exp(beta (s_ik - base)))

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        alpha: the sharpness of the positive term.
        beta: the sharpness of the negative term.
        base: the similarity around which pairs are weighted (lambda in the papers).

    Returns:
        Terms (1, a), weight 1 for every anchor, including those without positives or negatives.

    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019, equation 15. Differs from the
    source: this function does not mine pairs; pass the miner `MultiSimilarityMiner` to the module for that.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    pull = functional.softplus(masked_logsumexp(-alpha * pairs.positive, pairs.positive_mask) + alpha * base) / alpha
    push = functional.softplus(masked_logsumexp(beta * negative, negative_mask) - beta * base) / beta
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

    Its paper uses `miner=MultiSimilarityMiner()`. The default, no miner, is as in the paper on embedding expansion.
    """

    @validates
    def __init__(self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, **options: Unpack[Options]) -> None:
        super().__init__({"alpha": alpha, "beta": beta, "base": base}, **options)
