"""The module that expands any pair loss."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.core.expansion import expand_with_winners
from embedding_expansion.core.inputs import as_count, check_name, validates
from embedding_expansion.core.mining import Winners
from embedding_expansion.core.pair_loss import OPTIONS, PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.points import SCOPES, Scope
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName


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
        >>> from embedding_expansion import TripletLoss
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
        if loss.not_expandable:
            raise InvalidInput(f"{type(loss).__name__} cannot be expanded: {loss.not_expandable}")
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

    def batch_statistic(self, pairs: Pairs) -> Tensor | None:
        """Of the loss that is expanded."""
        return self.loss.batch_statistic(pairs)

    def terms(self, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None) -> Terms:
        """What each anchor adds, by the loss that is expanded."""
        return self.loss.terms(pairs, anchor_labels, statistic)

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
