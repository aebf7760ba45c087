"""Expansion of losses of pytorch-metric-learning, through their distance object."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.inputs import validates
from embedding_expansion.core.mining import Expansion
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs, compare_batch
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput
from embedding_expansion.interop.metric_learning.miners import is_foreign_miner
from embedding_expansion.interop.metric_learning.probe import probe
from embedding_expansion.interop.metric_learning.refusals import check_distance, check_kind
from embedding_expansion.interop.metric_learning.square import (
    Form,
    Indices,
    Scale,
    alone,
    indices,
    normalized_for,
    square_table,
)
from embedding_expansion.interop.metric_learning.stand_in import reading


@validates
def adapted(loss: Any, scope: str, options: dict[str, Any]) -> MetricLearningLoss:
    """Wraps a loss of pytorch-metric-learning in a `PairLoss` that can be expanded.

    It removes `normalize` from the options, because the distance of the loss decides about normalisation.

    Raises:
        InvalidInput, InvalidType: if the loss cannot be expanded at all, in this scope, or with these options; the
            error names the loss.
    """
    check_kind(loss)
    found = MetricLearningLoss(loss)
    if scope != "class_pair" and found.crosses:
        raise InvalidInput(
            f"{found.kind} takes (i, k) and (k, i) for one pair, but they differ in {scope} scope; use "
            'scope="class_pair"'
        )
    found.check_options(options)
    return found


class MetricLearningLoss(PairLoss):
    """A loss of pytorch-metric-learning that reads an expanded table through its distance.

    During a call the distance of the loss returns the expanded table on its usual scale (`is_inverted`, `power`,
    normalisation). Within a class the table holds the distances of originals; for rows of different classes it holds
    that of the hardest pair of the two classes. The loss gets an indices tuple with one negative for each anchor and
    other class. If the loss does not take such a tuple, the other entries of the class are set far away instead. The
    value is what the loss returns, including the effect of its reducer and regularisers.

    Args:
        loss: the loss. It is not changed, and its parameters are parameters of this module.

    Raises:
        InvalidInput: if the loss does not read the table; see `probe`.
    """

    reads_partner = False

    def __init__(self, loss: Any) -> None:
        super().__init__(normalize=False)  # the regularisers of the loss read the original rows
        self.loss, self.kind = loss, type(loss).__name__
        self.scale: Scale = check_distance(self.kind, loss.distance)
        self.metric = self.scale.metric
        self.form: Form
        self.form, self.crosses = probe(loss, self.scale)

    @property
    def indivisible(self) -> str:
        """The reason why the loss has no terms per anchor: it returns a single number."""
        return f"{self.kind} returns one number for the whole batch; use this package's loss of that kind instead"

    @property
    def takes_no_pairs(self) -> str:
        """The reason why the loss does not accept an `indices_tuple`; empty unless it reads the whole table."""
        return f"{self.kind} takes no pairs: it reads its whole table" if self.form == "table" else ""

    def with_reference(self, inputs: Inputs) -> Inputs:
        """The arguments; raises InvalidInput if they hold a reference."""
        if inputs.reference is not None:
            raise InvalidInput(f"reference is given, but {self.indivisible}")
        return inputs

    def with_anchors(self, batch: Batch) -> Batch:
        """The batch; raises InvalidInput unless all its rows are anchors."""
        if not batch.every_row:
            raise InvalidInput(f"rows or from_memory is given, but {self.indivisible}")
        return batch

    def expanded(self, batch: Batch, expansion: Expansion, *, statistics: bool) -> Pairs:
        """The expanded table of the rows, normalised if the distance of the loss normalises them."""
        return super().expanded(normalized_for(self.loss.distance, batch), expansion, statistics=statistics)

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """The value of the loss, as one total with weight 1."""
        value = pairs.positive.sum() if batch.is_empty else self._value(batch, pairs)
        return Terms(value.reshape(1, 1), torch.ones_like(value).reshape(1, 1))

    @validates
    def check_options(self, options: dict[str, Any]) -> None:
        """Raises InvalidInput for an option that the loss does not support, and removes `normalize`."""
        normalizes = bool(self.loss.distance.normalize_embeddings)
        if options.pop("normalize", normalizes) != normalizes:
            raise InvalidInput(
                f"normalize is {not normalizes}, but the distance of {self.kind} has normalize_embeddings="
                f"{normalizes}, which decides; leave normalize out"
            )
        for name, neutral in (("reduction", "mean"), ("chunk", None)):
            if options.get(name, neutral) != neutral:
                raise InvalidInput(f"{name} is {options[name]!r}, but {self.indivisible}")
        miner = options.get("miner")
        if miner is not None and self.takes_no_pairs:
            kind = type(miner).__name__ if is_foreign_miner(miner) or not hasattr(miner, "__name__") else miner.__name__
            raise InvalidInput(f"miner is a {kind}, but {self.takes_no_pairs}; leave miner out")

    def _value(self, batch: Batch, pairs: Pairs) -> Tensor:
        table = square_table(pairs, normalized_for(self.loss.distance, batch), self.scale)
        chosen: Indices | None = None
        if self.form == "table":
            table = alone(table, pairs.negative_mask, batch, self.scale.far)
        else:
            chosen = indices(pairs, batch, self.form)
        with reading(self.loss, batch.embeddings, table):
            value: Tensor = self.loss(batch.embeddings, batch.labels, chosen)
        return value

    def plain(self) -> PairLoss:
        """The loss on its own matrix."""
        return _OwnMatrix(self)

    @property
    def normalizes(self) -> bool:
        """Whether the distance of the loss normalises the rows."""
        return bool(self.loss.distance.normalize_embeddings)

    def extra_repr(self) -> str:
        """The form in which the loss gets its pairs."""
        return f"form={self.form!r}"


class _OwnMatrix(PairLoss):
    """A loss of pytorch-metric-learning on the distances of the rows, as it reads them without expansion.

    It calls a copy of the loss, because some losses keep figures of their last call.
    """

    reads_partner = False

    def __init__(self, adapted: MetricLearningLoss) -> None:
        super().__init__(normalize=False)
        self.loss, self.scale, self.metric = copy.deepcopy(adapted.loss), adapted.scale, adapted.metric
        self.form: Form = adapted.form

    @property
    def normalizes(self) -> bool:
        """Whether the distance of the loss normalises the rows."""
        return bool(self.loss.distance.normalize_embeddings)

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The plain table of the rows, normalised if the distance of the loss normalises them."""
        return compare_batch(normalized_for(self.loss.distance, batch), self.metric, partners=False)

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """The value of the loss, as one total with weight 1."""
        everyone = torch.arange(len(batch.labels), device=batch.labels.device)
        table = square_table(pairs, normalized_for(self.loss.distance, batch), self.scale, everyone)
        chosen: Indices | None = None
        if batch.chosen is not None or self.miner is not None:
            chosen = _own_indices(pairs, batch, self.form)
        with reading(self.loss, batch.embeddings, table):
            value: Tensor = self.loss(batch.embeddings, batch.labels, chosen)
        return Terms(value.reshape(1, 1), torch.ones_like(value).reshape(1, 1))


def _own_indices(pairs: Pairs, batch: Batch, form: Form) -> Indices:
    """The unmasked pairs or triplets of a plain table."""
    index, _ = batch.positives()
    if form == "triplets":
        a, p, k = (pairs.positive_mask[:, :, None] & pairs.negative_mask[:, None]).nonzero(as_tuple=True)
        return a, index[a, p], k
    a, p = pairs.positive_mask.nonzero(as_tuple=True)
    return a, index[a, p], *pairs.negative_mask.nonzero(as_tuple=True)
