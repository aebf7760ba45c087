"""The pair losses, as pure functions of a table of similarities.

Each returns what every anchor adds and how much it weighs, so that the paper's normalisers come out exactly, also when
classes differ in size and when a batch is spread over ranks or row blocks. Notation: s is a similarity of the table,
and d^2 = 2 - 2s the squared distance it stands for; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.pairs import Pairs
from embedding_expansion.errors import InvalidInput

SMALLEST_SQUARE = 1e-12  # a squared distance below has no gradient: the square root's is infinite at 0
NOTHING = -1e30  # the logarithm of an empty sum: finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True)
class Terms:
    """What each anchor adds to a loss, and how much it weighs: t means, each over its own anchors or pairs.

    A weight of 0 implies a total of 0. Weights carry no gradient.
    """

    total: Float[Tensor, "t a"]
    weight: Float[Tensor, "t a"]

    def mean(self) -> Float[Tensor, ""]:
        """The value of the loss: the sum over t of total.sum() / weight.sum(), 0 where nothing weighs.

        Example:
            >>> Terms(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 1.0], [0.0, 0.0]])).mean()
            tensor(0.5000)
        """
        weight = self.weight.sum(dim=1)
        weighs = weight > 0
        return torch.where(weighs, self.total.sum(dim=1) / torch.where(weighs, weight, 1), 0).sum()


def contrastive(pairs: Pairs, margin: float = 1.0) -> Terms:
    """Contrastive loss: mean over P of d_ij^2, plus mean over N of [margin - d_ik]_+^2.

    Two means, each over its own pairs: an anchor without positives still counts in the second.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: distance that negatives should keep.

    Returns:
        Terms (2, a), weighing the positive and the negative pairs of each anchor.

    Source: Hadsell, Chopra & LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, equation 4.
    Differs from the source: two means instead of one sum with halves.
    """
    positive_mask, (negative, negative_mask) = pairs.positive_mask, _anchors_negatives(pairs)
    pull = _squared_distance(pairs.positive)
    push = functional.relu(margin - _distance(negative)).square()
    return Terms(
        torch.stack([_masked_sum(pull, positive_mask), _masked_sum(push, negative_mask)]),
        torch.stack([positive_mask.sum(dim=1), negative_mask.sum(dim=1)]).to(pull.dtype),
    )


def triplet(pairs: Pairs, margin: float = 0.2) -> Terms:
    """Triplet loss over all triplets: 1/|P| sum over (i, j) in P and k in N_i of [d_ij^2 - d_ik^2 + margin]_+.

    The triplets are never listed: which of them are active is counted by sorting, and the sum over the active ones is
    linear in the distances. Memory is that of the table.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: on squared distances.

    Returns:
        Terms (1, a), weighing the positive pairs of each anchor; an anchor without negatives adds 0 to them.

    Source: Schroff, Kalenichenko & Philbin, "FaceNet", CVPR 2015, equation 2; normalised as in Ko & Gu, CVPR 2020,
    equation 1. Differs from the source: nothing.
    """
    negative, negative_mask = _anchors_negatives(pairs)
    reach = _squared_distance(pairs.positive) + margin
    away = _squared_distance(negative)
    with torch.no_grad():
        sorted_reach = torch.where(pairs.positive_mask, reach, -torch.inf).sort(dim=1).values
        sorted_away = torch.where(negative_mask, away, torch.inf).sort(dim=1).values
        closer_negatives = torch.searchsorted(sorted_away, reach.detach().contiguous(), right=False)
        further_positives = reach.shape[1] - torch.searchsorted(sorted_reach, away.detach().contiguous(), right=True)
    pull = _masked_sum(closer_negatives * reach, pairs.positive_mask)
    push = _masked_sum(further_positives * away, negative_mask)
    return Terms((pull - push)[None], _positive_pairs(pairs))


def hphn_triplet(pairs: Pairs, margin: float = 0.2, soft_margin: bool = False) -> Terms:
    """Triplet loss of the hardest positive and negative: [max over P_i of d_ij - min over N_i of d_ik + margin]_+.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: on distances, not squared.
        soft_margin: log(1 + exp(d_ij - d_ik)) instead; the margin is then not used.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive and a negative. Ties give the gradient of the first.

    Source: Hermans, Beyer & Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, equation 5
    (batch hard); Ko & Gu, CVPR 2020. Differs from the source: nothing.
    """
    negative, negative_mask = _anchors_negatives(pairs)
    furthest_positive = _distance(torch.where(pairs.positive_mask, pairs.positive, torch.inf).min(dim=1).values)
    closest_negative = _distance(torch.where(negative_mask, negative, -torch.inf).max(dim=1).values)
    counts = pairs.positive_mask.any(dim=1) & negative_mask.any(dim=1)
    gap = torch.where(counts, furthest_positive - closest_negative, 0)
    term = functional.softplus(gap) if soft_margin else functional.relu(gap + margin)
    return Terms(torch.where(counts, term, 0)[None], counts.to(term.dtype)[None])


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
    negative, negative_mask = _anchors_negatives(pairs)
    against = _masked_logsumexp(scale * negative, negative_mask)
    term = functional.softplus(against[:, None] - scale * pairs.positive)
    return Terms(_masked_sum(term, pairs.positive_mask)[None], _positive_pairs(pairs))


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

    Source: Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016, equation 4; Ko
    & Gu, CVPR 2020. Differs from the source: nothing.
    """
    row = _masked_logsumexp(margin - _distance(pairs.negative), pairs.negative_mask)
    against = row[: len(pairs.positive), None]
    if not pairs.per_class:
        if pairs.partner is None:
            raise InvalidInput("lifted_structure needs both ends' negatives; make the pairs with partners=True")
        against = torch.logaddexp(against, row[pairs.partner])
    term = functional.relu(against + _distance(pairs.positive)).square() / 2
    return Terms(_masked_sum(term, pairs.positive_mask)[None], _positive_pairs(pairs))


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
    source: no pair mining here.
    """
    negative, negative_mask = _anchors_negatives(pairs)
    pull = functional.softplus(_masked_logsumexp(-alpha * (pairs.positive - base), pairs.positive_mask)) / alpha
    push = functional.softplus(_masked_logsumexp(beta * (negative - base), negative_mask)) / beta
    return Terms((pull + push)[None], torch.ones_like(pull)[None])


def _anchors_negatives(pairs: Pairs) -> tuple[Float[Tensor, "a m"], Bool[Tensor, "a m"]]:
    """The anchors' rows of the negatives, without those that only partners read."""
    a = len(pairs.positive)
    return pairs.negative[:a], pairs.negative_mask[:a]


def _positive_pairs(pairs: Pairs) -> Float[Tensor, "1 a"]:
    """The weight of a mean over positive pairs: how many each anchor has."""
    return pairs.positive_mask.sum(dim=1).to(pairs.positive.dtype)[None]


def _squared_distance(similarity: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """d^2 = 2 - 2s, which rounding may not make negative."""
    return (2 - 2 * similarity).clamp(min=0)


def _distance(similarity: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """The distance, 1e-6 at the least, where its gradient is cut off.

    Read off a similarity, it is exact to about 3e-4 in float32 (1e-8 in float64) where points nearly coincide.
    """
    return (2 - 2 * similarity).clamp(min=SMALLEST_SQUARE).sqrt()


def _masked_sum(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Float[Tensor, " a"]:
    return torch.where(mask, values, 0).sum(dim=1)


def _masked_logsumexp(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """Row by row over the unmasked entries; a large negative number where there are none."""
    return torch.where(mask, values, NOTHING).logsumexp(dim=1)
