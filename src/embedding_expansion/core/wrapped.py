"""A pair loss around another one, which it changes in one respect."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.inputs import Labels, validates
from embedding_expansion.core.pair_loss import OPTIONS, PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import UnknownName


class WrappedLoss(PairLoss):
    """All that a loss does, done by the loss inside; options are the loss's own but for those that are given.

    Args:
        loss: the loss inside.
        **options: as in PairLoss.

    Raises:
        UnknownName: if there is no such option.
    """

    loss: PairLoss

    @validates
    def __init__(self, loss: PairLoss, **options: Any) -> None:
        inherited = {option.name: getattr(loss, option.name) for option in OPTIONS}
        for name in options:
            if name not in inherited:
                raise UnknownName(f"option of {type(self).__name__}", name, inherited)
        super().__init__(**{**inherited, **options})
        self.loss = loss

    @validates
    def reference(
        self, embeddings: Tensor, labels: Tensor, reference: Tensor | None, reference_labels: Labels | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """That of the loss inside: its proxies, where it has some."""
        return self.loss.reference(embeddings, labels, reference, reference_labels)

    def oriented(self, batch: Batch) -> Batch:
        """As the loss inside has it."""
        return self.loss.oriented(batch)

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """By the loss inside."""
        return self.loss.compare(batch, statistics=statistics)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """As the loss inside has them."""
        return self.loss.columns(batch)

    @property
    def undivided(self) -> str:
        """Why the loss inside has no terms per anchor; empty if it has."""
        return self.loss.undivided

    @property
    def takes_no_pairs(self) -> str:
        """As the loss inside has it."""
        return self.loss.takes_no_pairs

    @property
    def has_statistic(self) -> bool:
        """Whether the loss inside looks at the whole batch."""
        return self.loss.has_statistic

    def batch_statistic(self, pairs: Pairs) -> Tensor | None:
        """Of the loss inside."""
        return self.loss.batch_statistic(pairs)

    def terms(self, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None) -> Terms:
        """What each anchor adds, by the loss inside."""
        return self.loss.terms(pairs, anchor_labels, statistic)

    def read(
        self, batch: Batch, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None
    ) -> Terms:
        """The second step, by the loss inside."""
        return self.loss.read(batch, pairs, anchor_labels, statistic)
