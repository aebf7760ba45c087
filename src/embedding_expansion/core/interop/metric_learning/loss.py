"""Losses of pytorch-metric-learning, expanded through their distance object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.inputs import Labels, validates
from embedding_expansion.core.interop.metric_learning.miners import LIBRARY
from embedding_expansion.core.interop.metric_learning.probe import probe
from embedding_expansion.core.interop.metric_learning.refusals import check_distance, check_kind, check_options
from embedding_expansion.core.interop.metric_learning.square import Form, Indices, Scale, alone, indices, square_table
from embedding_expansion.core.interop.metric_learning.stand_in import reading
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput


@validates
def adapted(loss: object, scope: str, options: dict[str, Any]) -> MetricLearningLoss | None:
    """The loss as a PairLoss to expand; None where it is none of pytorch-metric-learning's.

    `normalize` is taken out of the options: the loss's distance says it.

    Raises:
        InvalidInput, InvalidType: with the loss's name, if it cannot be expanded, or not in that scope, or not with
        these options.
    """
    if not any(c.__module__.startswith(f"{LIBRARY}.") for c in type(loss).__mro__):
        return None
    check_kind(loss)
    found = MetricLearningLoss(loss)
    if scope == "anchor" and found.crosses:
        raise InvalidInput(
            f"{found.name} takes (i, k) and (k, i) for one pair, but in anchor scope they differ; use "
            'scope="class_pair"'
        )
    check_options(found, options)
    return found


class MetricLearningLoss(PairLoss):
    """A loss of pytorch-metric-learning that reads its pairs in the table of its distance.

    For the time of a call its distance gives the expanded table, in the distance's own terms (`is_inverted`, `power`,
    normalisation): originals within a class, the hardest pair of two classes for rows of different ones. The loss gets
    an indices tuple with one negative for each anchor and other class; where it takes none, all other entries of the
    class are far away. The value is what it returns, through its own reducer and with its own regularisers.

    Args:
        loss: the loss; it stays as it is, and its parameters are this module's.

    Raises:
        InvalidInput: if the loss does not read the table: see `probe`.
    """

    reads_partner = False

    def __init__(self, loss: Any) -> None:
        super().__init__(normalize=False)  # the loss's regularisers are of the rows as they are
        self.loss, self.name = loss, type(loss).__name__
        self.scale: Scale = check_distance(self.name, loss.distance)
        self.metric = self.scale.metric
        self.form: Form
        self.form, self.crosses = probe(self)

    @property
    def undivided(self) -> str:
        """It returns one number."""
        return f"{self.name} returns one number for the whole batch; use this package's loss of that kind instead"

    @property
    def takes_no_pairs(self) -> str:
        """A loss of a whole table takes none."""
        return f"{self.name} takes no pairs: it reads its whole table" if self.form == "table" else ""

    @validates
    def reference(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Int[Tensor, " b"],
        reference: Float[Tensor, "g d"] | None,
        reference_labels: Labels | None,
    ) -> tuple[None, None]:
        """There is none."""
        if reference is not None or reference_labels is not None:
            raise InvalidInput(f"reference is given, but {self.undivided}")
        return None, None

    def oriented(self, batch: Batch) -> Batch:
        """The batch, all rows of which are anchors."""
        if not batch.every_row:
            raise InvalidInput(f"rows or past is given, but {self.undivided}")
        return batch

    def measured(self, batch: Batch) -> Batch:
        """The batch with rows normalised where the distance does so."""
        if not self.loss.distance.normalize_embeddings:
            return batch
        rows = functional.normalize(batch.embeddings, dim=1)
        return replace(batch, embeddings=rows, gallery=rows)

    def read(
        self, batch: Batch, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None
    ) -> Terms:
        """The loss's own value, as one total of weight 1."""
        value = pairs.positive.sum() if batch.is_empty else self._value(batch, pairs)
        return Terms(value.reshape(1, 1), torch.ones_like(value).reshape(1, 1))

    def _value(self, batch: Batch, pairs: Pairs) -> Tensor:
        table = square_table(pairs, self.measured(batch), self.scale)
        chosen: Indices | None = None
        if self.form == "table":
            table = alone(table, pairs.negative_mask, batch, self.scale.far)
        else:
            chosen = indices(pairs, batch, self.form)
        with reading(self.loss, batch.embeddings, table):
            value: Tensor = self.loss(batch.embeddings, batch.labels, chosen)
        return value

    def extra_repr(self) -> str:
        """How the loss is given its pairs."""
        return f"form={self.form!r}"
