"""The losses as modules.

The class lines are the registry: the function, the metric that it reads, whether it reads the partner's row, which
parameters must be above 0, and whether the loss is monotone in its negatives (a law that the tests then hold it to).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from embedding_expansion.core import losses
from embedding_expansion.core.inputs import as_limit, check_classes, validates
from embedding_expansion.core.losses.statistical import pair_sums, positive_histogram
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import checked
from embedding_expansion.core.terms import Terms, negatives_of_anchors, positive_pairs
from embedding_expansion.errors import InvalidInput


class ContrastiveLoss(PairLoss, function=losses.contrastive, metric="euclidean"):
    """Contrastive loss (margin=1.0, squared=True, average="all"); see `losses.contrastive`."""


class TripletLoss(PairLoss, function=losses.triplet, metric="euclidean"):
    """Triplet loss (margin=0.2, mining="all", soft_margin=False, squared=True, average="all"); see `losses.triplet`."""


class HPHNTripletLoss(PairLoss, function=losses.hphn_triplet, metric="euclidean"):
    """Hard-positive hard-negative triplet loss (margin=0.2, soft_margin=False); see `losses.hphn_triplet`.

    Expanded, and trained from scratch, it lost 10 to 16 points of Recall@1 where it was measured (docs/results.md): the
    loss sees nothing but the hardest negative, and that was a synthetic point nearly always.
    """


class NPairLoss(PairLoss, function=losses.n_pair, metric="inner", positive=("scale",)):
    """N-pair loss (scale=1.0); see `losses.n_pair`, and PairLoss for the options."""


class LiftedStructureLoss(PairLoss, function=losses.lifted_structure, metric="euclidean", reads_partner=True):
    """Lifted structure loss (margin=1.0); see `losses.lifted_structure`, and PairLoss for the options."""


class GeneralizedLiftedStructureLoss(PairLoss, function=losses.generalized_lifted_structure, metric="euclidean"):
    """Generalised lifted structure loss (margin=1.0, positive_margin=0.0); see `generalized_lifted_structure`."""


class MultiSimilarityLoss(PairLoss, function=losses.multi_similarity, metric="inner", positive=("alpha", "beta")):
    """Multi-similarity loss (alpha=2.0, beta=50.0, base=0.5); see `losses.multi_similarity`.

    With `miner=MultiSimilarityMiner()` as in its paper, without by default as in that of embedding expansion.
    """


class MarginLoss(PairLoss, function=losses.margin, metric="euclidean", positive=("beta",), monotone=False):
    """Margin loss (margin=0.2, beta=1.2, count="pairs") with a boundary that can be learnt; see `losses.margin`.

    Args:
        *parameters: margin, beta and count, by position or by name.
        learn_beta: make beta a parameter of the module; its optimiser should have a rate of its own.
        num_classes: learn a beta for each class, labels being 0 to num_classes - 1; None: one for all.
        nu: weight of the regulariser of a learnt beta, which would else grow: nu times the anchor's beta joins the sum
            of the hinges once for each positive of the anchor, and is divided by the active pairs as they are. With
            count="triplets" it is pytorch-metric-learning's: once for each triplet where there is a beta for each
            class; undivided, nu times beta, where there is one for all.
        **named: more parameters and the options of PairLoss, by name.

    Source: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4.2, the problem that nu
    regularises, and the authors' program, which draws a triplet for each positive and divides both sums by the active
    pairs. Differs from the source: no beta for each image.
    """

    @validates
    def __init__(
        self,
        *parameters: Any,
        learn_beta: bool = False,
        num_classes: int | None = None,
        nu: float = 0.0,
        **named: Any,
    ) -> None:
        super().__init__(*parameters, **named)
        own = inspect.signature(MarginLoss.__init__).parameters
        learn_beta = checked(type(self), MarginLoss.__init__, own["learn_beta"], learn_beta)
        nu = checked(type(self), MarginLoss.__init__, own["nu"], nu)
        count = as_limit("num_classes", num_classes)
        if count is not None and not learn_beta:
            raise InvalidInput("num_classes is given, but learn_beta is not; a beta for each class is a learnt one")
        if nu < 0:
            raise InvalidInput(f"nu is {nu!r}; pass 0 or a number above")
        self.nu, self.beta = nu, None
        if learn_beta:
            self.beta = nn.Parameter(torch.full((count or 1,), float(self.parameters_of_function["beta"])))

    def terms(self, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None) -> Terms:
        """What each anchor adds, with its class's beta."""
        if self.beta is None:
            return super().terms(pairs, anchor_labels)
        check_classes(anchor_labels, len(self.beta), "num_classes") if len(self.beta) > 1 else None
        beta = self.beta[anchor_labels if len(self.beta) > 1 else torch.zeros_like(anchor_labels)]
        found = losses.margin(pairs, **{**self.parameters_of_function, "beta": beta})
        if self.nu == 0:
            return found
        times = positive_pairs(pairs)
        if self.parameters_of_function["count"] == "triplets":
            times = times * negatives_of_anchors(pairs)[1].sum(dim=1)
            if len(self.beta) == 1:
                once = (times > 0).to(times.dtype)
                return Terms(torch.cat([found.total, self.nu * beta * once]), torch.cat([found.weight, once]))
        return Terms(found.total + self.nu * beta * times, found.weight)


class CircleLoss(PairLoss, function=losses.circle, metric="inner", positive=("scale",), monotone=False):
    """Circle loss (margin=0.4, scale=80.0); see `losses.circle`, and PairLoss for the options."""


class SupConLoss(PairLoss, function=losses.sup_con, metric="inner", positive=("temperature",)):
    """Supervised contrastive loss (temperature=0.1); see `losses.sup_con`, and PairLoss for the options."""


class NTXentLoss(PairLoss, function=losses.nt_xent, metric="inner", positive=("temperature",)):
    """NT-Xent, or InfoNCE (temperature=0.07); see `losses.nt_xent`, and PairLoss for the options."""


class NCALoss(PairLoss, function=losses.nca, metric="euclidean", positive=("scale",)):
    """Neighbourhood components analysis (scale=1.0, objective="log"); see `losses.nca`."""


class TupletMarginLoss(PairLoss, function=losses.tuplet_margin, metric="inner", positive=("scale",)):
    """Tuplet margin loss (margin=5.73 degrees, scale=64.0); see `losses.tuplet_margin`."""


class IntraPairVarianceLoss(
    PairLoss, function=losses.intra_pair_variance, metric="inner", statistic=pair_sums, monotone=False
):
    """Intra-pair variance loss (positive_epsilon=0.01, negative_epsilon=0.01); see `losses.intra_pair_variance`."""


class RankedListLoss(PairLoss, function=losses.ranked_list, metric="euclidean", monotone=False):
    """Ranked list loss (margin=0.4, alpha=1.2, temperatures 0.0 and 10.0, imbalance=0.5); see `losses.ranked_list`."""


class AngularLoss(PairLoss, function=losses.angular, metric="inner", reads_partner=True, positive=("angle",)):
    """Angular loss (angle=45.0 degrees); see `losses.angular`, and PairLoss for the options."""


class SignalToNoiseRatioContrastiveLoss(
    PairLoss,
    function=losses.snr_contrastive,
    metric="snr",
    not_expandable="the distance of a synthetic point to another does not follow from those of its ends",
):
    """Contrastive loss on the signal-to-noise distance (margin=1.0, positive_margin=0.0); see `snr_contrastive`."""


class HistogramLoss(
    PairLoss, function=losses.histogram, metric="inner", statistic=positive_histogram, positive=("bins",)
):
    """Histogram loss (bins=100); see `losses.histogram`, and PairLoss for the options."""


class FastAPLoss(PairLoss, function=losses.fast_ap, metric="euclidean", positive=("bins",)):
    """FastAP (bins=10); see `losses.fast_ap`, and PairLoss for the options."""


class SmoothAPLoss(PairLoss, function=losses.smooth_ap, metric="inner", positive=("temperature",)):
    """Smooth AP (temperature=0.01, query_counts=False); see `losses.smooth_ap`, and PairLoss for the options."""


class RecallAtKLoss(
    PairLoss, function=losses.recall_at_k, metric="inner", positive=("rank_temperature", "temperature")
):
    """Recall@K surrogate (ks=(1, 2, 4, 8, 16), temperatures 1.0 and 0.01, form="equation"); see `recall_at_k`."""


LOSSES: dict[str, type[PairLoss]] = {
    loss.function.__name__: loss
    for loss in (
        ContrastiveLoss,
        TripletLoss,
        HPHNTripletLoss,
        NPairLoss,
        LiftedStructureLoss,
        GeneralizedLiftedStructureLoss,
        MultiSimilarityLoss,
        MarginLoss,
        CircleLoss,
        SupConLoss,
        NTXentLoss,
        NCALoss,
        TupletMarginLoss,
        IntraPairVarianceLoss,
        RankedListLoss,
        AngularLoss,
        SignalToNoiseRatioContrastiveLoss,
        HistogramLoss,
        FastAPLoss,
        SmoothAPLoss,
        RecallAtKLoss,
    )
}
