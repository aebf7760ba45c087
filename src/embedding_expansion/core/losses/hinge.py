"""Losses of hinges on distances: contrastive, triplet, HPHN triplet.

Notation: s is a similarity of the table, d^2 = 2 - 2s; P_i and N_i are the anchor's positives and negatives.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.terms import (
    Terms,
    distance,
    masked_sum,
    negatives_of_anchors,
    positive_pairs,
    squared_distance,
)


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
    positive_mask, (negative, negative_mask) = pairs.positive_mask, negatives_of_anchors(pairs)
    pull = squared_distance(pairs.positive)
    push = functional.relu(margin - distance(negative)).square()
    return Terms(
        torch.stack([masked_sum(pull, positive_mask), masked_sum(push, negative_mask)]),
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
    negative, negative_mask = negatives_of_anchors(pairs)
    reach = squared_distance(pairs.positive) + margin
    away = squared_distance(negative)
    with torch.no_grad():
        sorted_reach = torch.where(pairs.positive_mask, reach, -torch.inf).sort(dim=1).values
        sorted_away = torch.where(negative_mask, away, torch.inf).sort(dim=1).values
        closer_negatives = torch.searchsorted(sorted_away, reach.detach().contiguous(), right=False)
        further_positives = reach.shape[1] - torch.searchsorted(sorted_reach, away.detach().contiguous(), right=True)
    pull = masked_sum(closer_negatives * reach, pairs.positive_mask)
    push = masked_sum(further_positives * away, negative_mask)
    return Terms((pull - push)[None], positive_pairs(pairs))


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
    negative, negative_mask = negatives_of_anchors(pairs)
    furthest_positive = distance(torch.where(pairs.positive_mask, pairs.positive, torch.inf).min(dim=1).values)
    closest_negative = distance(torch.where(negative_mask, negative, -torch.inf).max(dim=1).values)
    counts = pairs.positive_mask.any(dim=1) & negative_mask.any(dim=1)
    gap = torch.where(counts, furthest_positive - closest_negative, 0)
    term = functional.softplus(gap) if soft_margin else functional.relu(gap + margin)
    return Terms(torch.where(counts, term, 0)[None], counts.to(term.dtype)[None])
