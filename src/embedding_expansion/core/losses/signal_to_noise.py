"""Contrastive loss on the signal-to-noise distance."""

from __future__ import annotations

from typing import Unpack

import torch
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.losses.hinge import Average
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, active, masked_sum, negatives_of_anchors


def snr_contrastive(pairs: Pairs, margin: float = 1.0, positive_margin: float = 0.0, average: Average = "all") -> Terms:
    """Contrastive loss: mean over P of [d_ij - positive_margin]_+, plus mean over N of [margin - d_ik]_+.

    d_ij = var(x_i - x_j) / var(x_i), over coordinates: the noise that separates j from the anchor's signal. It changes
    if the space is rotated, and between two points of a segment it is no bilinear form of the ends, so that there is no
    expansion of this loss.

    Args:
        pairs: from `compare`, metric "snr".
        margin: distance that negatives should keep.
        positive_margin: distance that positives may keep.
        average: "all" pairs, or those "active", that add something, as pytorch-metric-learning does: two copies of an
            image add nothing.

    Returns:
        Terms (2, a), weighing the positive and the negative pairs of each anchor.

    Source: Yuan et al., "Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning", CVPR 2019,
    equations 3, 4 and 7. Differs from the source: without the regulariser that keeps rows at a mean of 0; an anchor
    whose coordinates are all equal has no signal, for which the ratio is undefined, and is at distance 0 of every row.
    """
    positive_mask, (negative, negative_mask) = pairs.positive_mask, negatives_of_anchors(pairs)
    pull = functional.relu(2 - 2 * pairs.positive - positive_margin)
    push = functional.relu(margin - (2 - 2 * negative))
    if average == "active":
        positive_mask, negative_mask = positive_mask & active(pull), negative_mask & active(push)
    return Terms(
        torch.stack([masked_sum(pull, positive_mask), masked_sum(push, negative_mask)]),
        torch.stack([positive_mask.sum(dim=1), negative_mask.sum(dim=1)]).to(pull.dtype),
    )


class SignalToNoiseRatioContrastiveLoss(
    PairLoss,
    function=snr_contrastive,
    metric="snr",
    not_expandable="the distance of a synthetic point to another does not follow from those of its ends",
):
    """Contrastive loss on the signal-to-noise distance (margin=1.0, positive_margin=0.0); see `snr_contrastive`."""

    @validates
    def __init__(
        self, margin: float = 1.0, positive_margin: float = 0.0, average: Average = "all", **options: Unpack[Options]
    ) -> None:
        super().__init__({"margin": margin, "positive_margin": positive_margin, "average": average}, **options)
