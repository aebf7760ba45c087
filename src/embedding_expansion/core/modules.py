"""The losses as modules, and the module that expands any of them.

The class lines are the registry: the function, the metric that it reads, whether it reads the partner's row, which
parameters must be above 0, and whether the loss is monotone in its negatives (a law that the tests then hold it to).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.core import losses
from embedding_expansion.core.expansion import expand_with_winners
from embedding_expansion.core.inputs import as_count, check_name, validates
from embedding_expansion.core.losses import Terms
from embedding_expansion.core.mining import Winners
from embedding_expansion.core.pair_loss import OPTIONS, PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.points import SCOPES, Scope
from embedding_expansion.errors import InvalidType, UnknownName


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


class EmbeddingExpansion(PairLoss):
    """A pair loss whose negatives are the hardest pairs of original and synthetic points of every two classes.

    Args:
        loss: an instance of one of the pair losses.
        n: synthetic points per pair of a class, a whole number; 0 is mining without synthetic points.
        scope: "class_pair", the paper's formula, or "anchor", the authors' released program; see `expand`.
        normalize_synthetic: L2-normalise the synthetic points.
        **options: normalize, reduction, ignore_index, check_finite, statistics as in PairLoss; by default the loss's
            own.

    Raises:
        InvalidInput, InvalidType, UnknownName: if an option or a batch cannot be used.

    Source: Ko & Gu, "Embedding Expansion: Augmentation in Embedding Space for Deep Metric Learning", CVPR 2020. Differs
    from the source: see `expand`.

    Example:
        >>> loss = EmbeddingExpansion(TripletLoss(margin=0.2), n=2)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss(embeddings, [0, 0, 1, 1]).item() > TripletLoss(margin=0.2)(embeddings, [0, 0, 1, 1]).item()
        False
    """

    @validates
    def __init__(
        self,
        loss: PairLoss,
        n: int = 2,
        scope: Scope = "class_pair",
        normalize_synthetic: bool = True,
        **options: Any,
    ) -> None:
        if isinstance(loss, type):
            raise InvalidType(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}()")
        if isinstance(loss, EmbeddingExpansion) or not isinstance(loss, PairLoss):
            raise InvalidType(
                f"loss is a {type(loss).__name__}; pass one of this package's pair losses, e.g. TripletLoss()"
            )
        check_name("scope", scope, SCOPES)
        inherited = {option.name: getattr(loss, option.name) for option in OPTIONS}
        for name in options:
            if name not in inherited:
                raise UnknownName("option of EmbeddingExpansion", name, inherited)
        super().__init__(**{**inherited, **options})
        self.loss, self.n, self.scope, self.normalize_synthetic = loss, as_count(n), scope, normalize_synthetic

    @validates
    def compare(self, embeddings: Tensor, labels: Tensor, rows: Tensor | None, past: Tensor | None) -> Pairs:
        """The expanded table."""
        pairs, winners = expand_with_winners(
            embeddings,
            labels,
            self.n,
            scope=self.scope,
            normalize_synthetic=self.normalize_synthetic,
            metric=self.loss.metric,
            rows=rows,
            past=past,
            partners=self.loss.reads_partner,
        )
        if self.statistics:
            self.last_statistics["synthetic_share"] = _synthetic_share(pairs, winners)
        return pairs

    def terms(self, pairs: Pairs, anchor_labels: Int[Tensor, " a"]) -> Terms:
        """What each anchor adds, by the loss that is expanded."""
        return self.loss.terms(pairs, anchor_labels)

    def extra_repr(self) -> str:
        """The parameters of the expansion."""
        return f"n={self.n}, scope={self.scope!r}, normalize_synthetic={self.normalize_synthetic}"


def _synthetic_share(pairs: Pairs, winners: Winners) -> Float[Tensor, ""]:
    """The share of synthetic points among the points of the selected pairs of different classes."""
    different = pairs.negative_mask
    if pairs.per_class:
        different = ~torch.eye(*winners.is_synthetic.shape[:2], dtype=torch.bool, device=different.device)
    chosen = winners.is_synthetic & different[..., None]
    return chosen.sum() / (2 * different.sum()).clamp(min=1)
