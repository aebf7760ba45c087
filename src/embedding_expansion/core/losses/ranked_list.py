"""Ranked list loss."""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import NOTHING, Terms, active, distance, negatives_of_anchors
from embedding_expansion.errors import InvalidInput


def ranked_list(
    pairs: Pairs,
    margin: float = 0.4,
    alpha: float = 1.2,
    positive_temperature: float = 0.0,
    negative_temperature: float = 10.0,
    imbalance: float = 0.5,
) -> Terms:
    """Ranked list loss: positives within alpha - margin, negatives beyond alpha; what violates this is averaged.

        (1 - imbalance) sum over P* of w_ij (d_ij - alpha + margin) + imbalance sum over N* of w_ik (alpha - d_ik)

    P* and N* are the anchor's violating pairs, a negative at distance 0 among them; the weights are a softmax over them
    of temperature x violation.

    Args:
        pairs: from `compare` or `expand`, metric "euclidean".
        margin: between the two boundaries, m in the paper.
        alpha: distance that negatives should keep.
        positive_temperature: T of the positives, 0 or above; 0 weighs them equally.
        negative_temperature: T of the negatives, 0 or above.
        imbalance: weight of the negatives, lambda in the paper, from 0 to 1.

    Returns:
        Terms (1, a), weight 1 for every anchor.

    Raises:
        InvalidInput: if imbalance is not from 0 to 1, or a temperature is below 0.

    Source: Wang et al., "Ranked List Loss for Deep Metric Learning", CVPR 2019, equations 1 to 8. Differs from the
    source: nothing; positives have weights as in the longer paper of 2021 if a temperature is given.
    """
    if not 0 <= imbalance <= 1:
        raise InvalidInput(f"imbalance is {imbalance}; pass a number from 0 to 1, by default 0.5")
    for name, temperature in (("positive", positive_temperature), ("negative", negative_temperature)):
        if temperature < 0:
            raise InvalidInput(
                f"{name}_temperature is {temperature}; pass 0 or a number above, as below 0 the smallest violations "
                "would weigh the most"
            )
    negative, negative_mask = negatives_of_anchors(pairs)
    pull = _weighed(distance(pairs.positive) - (alpha - margin), pairs.positive_mask, positive_temperature)
    push = _weighed(alpha - distance(negative), negative_mask, negative_temperature)
    return Terms(((1 - imbalance) * pull + imbalance * push)[None], torch.ones_like(pull)[None])


def _weighed(violation: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"], temperature: float) -> Float[Tensor, " a"]:
    """The mean of what is above 0, weighed by a softmax over it; 0 where nothing is."""
    counts = mask & active(violation)
    weight = torch.where(counts, temperature * violation, NOTHING).softmax(dim=1)
    return torch.where(counts, weight * violation, 0).sum(dim=1)


class RankedListLoss(PairLoss, function=ranked_list, metric="euclidean", monotone=False):
    """Ranked list loss (margin=0.4, alpha=1.2, temperatures 0.0 and 10.0, imbalance=0.5); see `losses.ranked_list`."""

    @validates
    def __init__(
        self,
        margin: float = 0.4,
        alpha: float = 1.2,
        positive_temperature: float = 0.0,
        negative_temperature: float = 10.0,
        imbalance: float = 0.5,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            {
                "margin": margin,
                "alpha": alpha,
                "positive_temperature": positive_temperature,
                "negative_temperature": negative_temperature,
                "imbalance": imbalance,
            },
            **options,
        )
