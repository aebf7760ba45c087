"""Contrastive loss on the signal-to-noise distance."""

from __future__ import annotations

from typing import Unpack

from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.losses.hinge import Average
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.terms import Terms, active, negatives_of_anchors, two_means


def snr_contrastive(pairs: Pairs, margin: float = 1.0, positive_margin: float = 0.0, average: Average = "all") -> Terms:
    """Contrastive loss: mean over P of [d_ij - positive_margin]_+, plus mean over N of [margin - d_ik]_+.

    d_ij = var(x_i - x_j) / var(x_i), with variances over coordinates, is the ratio of the noise that separates j from
    the anchor i to the signal of the anchor. The distance changes if the space is rotated. Between points of segments
    it is not a bilinear form of the ends, so this loss cannot be expanded.

    Args:
        pairs: from `compare`, metric "snr".
        margin: the distance that negatives should keep.
        positive_margin: the distance that positives may keep.
        average: "all" averages over all pairs; "active" averages over pairs with a hinge above 0, as
            pytorch-metric-learning does. Two copies of an image are not active.

    Returns:
        Terms (2, a). The weights of an anchor are its numbers of positive and of negative pairs.

    Source: Yuan et al., "Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning", CVPR 2019,
    equations 3, 4 and 7. Differs from the source: the regulariser that keeps the mean of a row at 0 is omitted; an
    anchor whose coordinates are all equal has no signal, so the ratio is undefined, and its distances are set to 0.
    """
    positive_mask, (negative, negative_mask) = pairs.positive_mask, negatives_of_anchors(pairs)
    pull = functional.relu((2 - positive_margin) - 2 * pairs.positive)
    push = functional.relu(2 * negative - (2 - margin))
    if average == "active":
        positive_mask, negative_mask = positive_mask & active(pull), negative_mask & active(push)
    return two_means(pull, positive_mask, push, negative_mask)


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
