"""The losses as modules.

The class lines are the registry: the function, the metric that it reads, whether it reads the partner's row, which
parameters must be above 0, and whether the loss is monotone in its negatives (a law that the tests then hold it to).
"""

from __future__ import annotations

from embedding_expansion.core import losses
from embedding_expansion.core.pair_loss import PairLoss


class ContrastiveLoss(PairLoss, function=losses.contrastive, metric="euclidean"):
    """Contrastive loss (margin=1.0); see `losses.contrastive`, and PairLoss for the options."""


class TripletLoss(PairLoss, function=losses.triplet, metric="euclidean"):
    """Triplet loss over all triplets (margin=0.2); see `losses.triplet`, and PairLoss for the options."""


class HPHNTripletLoss(PairLoss, function=losses.hphn_triplet, metric="euclidean"):
    """Hard-positive hard-negative triplet loss (margin=0.2, soft_margin=False); see `losses.hphn_triplet`.

    Expanded, and trained from scratch, it lost 10 to 16 points of Recall@1 where it was measured (docs/results.md): the
    loss sees nothing but the hardest negative, and that was a synthetic point nearly always.
    """


class NPairLoss(PairLoss, function=losses.n_pair, metric="inner", positive=("scale",)):
    """N-pair loss (scale=1.0); see `losses.n_pair`, and PairLoss for the options."""


class LiftedStructureLoss(PairLoss, function=losses.lifted_structure, metric="euclidean", reads_partner=True):
    """Lifted structure loss (margin=1.0); see `losses.lifted_structure`, and PairLoss for the options."""


class MultiSimilarityLoss(PairLoss, function=losses.multi_similarity, metric="inner", positive=("alpha", "beta")):
    """Multi-similarity loss (alpha=2.0, beta=50.0, base=0.5); see `losses.multi_similarity`."""


LOSSES: dict[str, type[PairLoss]] = {
    loss.function.__name__: loss
    for loss in (
        ContrastiveLoss,
        TripletLoss,
        HPHNTripletLoss,
        NPairLoss,
        LiftedStructureLoss,
        MultiSimilarityLoss,
    )
}
