"""Selectively contrastive loss: a triplet loss on the hardest negatives that can drop its pull."""

from __future__ import annotations

from typing import Literal, TypeAlias, Unpack

import torch
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs, rounding
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, negatives_of_anchors, with_a_column

Form: TypeAlias = Literal["equation", "program"]
CUTOFF = 0.8  # of the program: a negative that is more similar than this is hard, whatever the positive
COPY = 0.9999  # of the program: a positive that is more similar than this is taken for a copy of the anchor


def selectively_contrastive(
    pairs: Pairs, temperature: float = 0.1, hard_weight: float = 1.0, form: Form = "equation"
) -> Terms:
    """Selectively contrastive triplet loss: drops the pull of triplets whose negative is closer than the positive.

    With s_p the similarity of the anchor's closest positive and s_n that of its hardest negative, the term is

        hard_weight x s_n                                          if s_n > s_p
        -log(exp(s_p / t) / (exp(s_p / t) + exp(s_n / t)))         otherwise, with t the temperature

    In the first case only the negative is pushed, because pulling the positive could draw all three points together.
    The value jumps where the cases meet, and a harder negative can lower it.

    Args:
        pairs: from `compare` or `expand`, metric "inner".
        temperature: divides the similarities in the second case.
        hard_weight: the weight of the first case, lambda in the paper.
        form: "equation" is the definition above. With "program", as in the authors' program, negatives with a
            similarity above 0.8 are also in the first case, and positives with a similarity above 0.9999, such as
            copies of the anchor, are not used.

    Returns:
        Terms (1, a), weight 1 for every anchor with a positive and a negative. In a tie the first gets the gradient;
        s_p and s_n that differ only by rounding count as equal.

    Source: Xuan, Stylianou, Liu & Pless, "Hard negative examples are hard, but useful", ECCV 2020; their program
    (github.com/littleredxh/HardNegative, `_code/Loss.py`), which has the temperature 0.1, the cutoffs of "program" and
    lambda 1 in its scripts for CUB, CARS, SOP and hotels. Only the program and descriptions of the paper were at hand:
    that the paper's own experiments use these two numbers, and how it numbers its equations, was not verified. Differs
    from the source: the program leaves out anchors where both similarities, or s_n and 0.8, are exactly equal, and
    those whose hardest negative has a similarity of -1, or of 1 or more.
    """
    negative, negative_mask = negatives_of_anchors(pairs)
    positive_mask = pairs.positive_mask
    if form == "program":
        positive_mask = positive_mask & (pairs.positive <= COPY)
    closest_positive = torch.where(positive_mask, pairs.positive, -torch.inf).max(dim=1).values
    negative = with_a_column(torch.where(negative_mask, negative, -torch.inf), -torch.inf)
    hardest_negative = negative.max(dim=1).values
    counts = positive_mask.any(dim=1) & negative_mask.any(dim=1)
    near, far = torch.where(counts, closest_positive, 0), torch.where(counts, hardest_negative, 0)
    is_hard = far > near + rounding(near)
    if form == "program":
        is_hard = is_hard | (far > CUTOFF)
    term = torch.where(is_hard, hard_weight * far, functional.softplus((far - near) / temperature))
    return Terms(torch.where(counts, term, 0)[None], counts.to(term.dtype)[None])


class SelectivelyContrastiveLoss(
    PairLoss, function=selectively_contrastive, metric="inner", positive=("temperature",), monotone=False
):
    """Selectively contrastive triplet loss (temperature=0.1, hard_weight=1.0, form="equation").

    See `losses.selectively_contrastive`.
    """

    @validates
    def __init__(
        self, temperature: float = 0.1, hard_weight: float = 1.0, form: Form = "equation", **options: Unpack[Options]
    ) -> None:
        super().__init__({"temperature": temperature, "hard_weight": hard_weight, "form": form}, **options)
