"""A pair loss as a module: loss(embeddings, labels) -> scalar.

It works in two steps, the table of similarities and the terms read from it: expansion replaces the first only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from embedding_expansion.core.batch import Batch, prepared, without
from embedding_expansion.core.blocks import terms_in_blocks
from embedding_expansion.core.call import Call, as_call
from embedding_expansion.core.chosen import ChosenPairs, IndicesTuple, narrowed
from embedding_expansion.core.degenerate import warn_if_degenerate
from embedding_expansion.core.inputs import Labels, as_batch, as_limit, as_past, as_reference, validates
from embedding_expansion.core.interop.metric_learning.miners import is_foreign_miner, mined
from embedding_expansion.core.pairs import Metric, Pairs, compare_batch
from embedding_expansion.core.parameters import Reduction, bind, check_options, parameters_of
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput, InvalidType


class PairLoss(nn.Module):
    """A pair loss on embeddings and labels.

    Args:
        *parameters: the parameters of the loss function, by position or by name (see the function of the same name).
        normalize: L2-normalise the embeddings first.
        reduction: "mean" gives a scalar; "none" gives the `Terms`, total and weight per anchor.
        ignore_index: a label whose rows take no part at all.
        check_finite: on CUDA, look for NaN and infinite embeddings, which makes the GPU wait; on CPU this is always
            done.
        miner: narrows the table before the loss reads it, `Pairs -> Pairs` (see `miners`), or a miner of
            pytorch-metric-learning (see `mined`); all pairs by default.
        chunk: work on so many anchors at a time, and again in the backward pass, so that memory is that of a block and
            not of the batch; by default all at once.
        statistics: keep figures of the last batch in `last_statistics`, as detached scalar tensors: `active_share`, the
            share of anchors with a term above 0, and with expansion `synthetic_share`, the share of synthetic points
            among the points of the selected hardest pairs.
        **named: more parameters by name.

    Shapes: embeddings (b, d), floating; labels (b,), whole numbers; the result is a float32 (or float64) scalar.

    Raises:
        InvalidInput, InvalidType, UnknownName: if an option or a batch cannot be used.

    A batch that is empty, of one class or without a positive pair is no error: what is left of the loss is computed,
    and a DegenerateBatchWarning says why.

    Example:
        >>> from embedding_expansion import MultiSimilarityLoss
        >>> loss = MultiSimilarityLoss(alpha=2.0)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss(embeddings, [0, 0, 1, 1])
        tensor(0.2688, grad_fn=<SumBackward0>)
    """

    function: ClassVar[Callable[..., Terms]]
    metric: Metric  # of the class, or of a loss of another library
    reads_partner: ClassVar[bool]
    positive: ClassVar[tuple[str, ...]]
    monotone: ClassVar[bool]
    statistic: ClassVar[Callable[..., Tensor] | None] = None
    not_expandable: ClassVar[str] = ""
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(
        cls,
        *,
        function: Callable[..., Terms] | None = None,
        metric: Metric = "euclidean",
        reads_partner: bool = False,
        positive: tuple[str, ...] = (),
        monotone: bool = True,
        statistic: Callable[..., Tensor] | None = None,
        not_expandable: str = "",
    ) -> None:
        """The line of the registry.

        Args:
            function: `Pairs -> Terms`; its parameters are the module's.
            metric: which similarity it reads.
            reads_partner: whether it reads the negatives of a positive as well.
            positive: parameters that must be above 0.
            monotone: whether the value never falls when negatives become more similar.
            statistic: of a loss that looks at the whole batch: `Pairs -> Tensor`, with gradient, such that the sum over
                blocks of anchors is the batch's. The function then takes that sum as the keyword `statistic`.
            not_expandable: why the loss cannot be expanded; empty where it can.
        """
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if function is None:
            cls.__signature__ = inspect.Signature(own)
            return
        cls.function = staticmethod(function)
        cls.metric, cls.reads_partner, cls.positive, cls.monotone = metric, reads_partner, positive, monotone
        cls.statistic = None if statistic is None else staticmethod(statistic)
        cls.not_expandable = not_expandable
        known = {option.name for option in OPTIONS}
        more = [p for p in own if p.kind is p.KEYWORD_ONLY and p.name not in known]
        cls.__signature__ = inspect.Signature([*parameters_of(function).values(), *more, *OPTIONS])

    @validates
    def __init__(
        self,
        *parameters: Any,
        normalize: bool = True,
        reduction: Reduction = "mean",
        ignore_index: int | None = None,
        check_finite: bool = False,
        miner: Callable[..., Any] | None = None,
        chunk: int | None = None,
        statistics: bool = False,
        **named: Any,
    ) -> None:
        super().__init__()
        check_options(reduction, ignore_index, miner, chunk)
        self.normalize, self.reduction, self.ignore_index = normalize, reduction, ignore_index
        self.check_finite, self.statistics, self.miner = check_finite, statistics, miner
        self.chunk, self._foreign_miner = as_limit("chunk", chunk), is_foreign_miner(miner)
        self.parameters_of_function: dict[str, Any] = {}
        if hasattr(type(self), "function"):
            known = {option.name for option in OPTIONS}
            self.parameters_of_function = bind(type(self), type(self).function, parameters, named, known)
        self.last_statistics: dict[str, Tensor] = {}

    @validates
    def forward(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Labels = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Float[Tensor, "g d"] | None = None,
        ref_labels: Labels | None = None,
        *,
        rows: Int[Tensor, " a"] | None = None,
        past: Bool[Tensor, " b"] | None = None,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
    ) -> Float[Tensor, ""] | Terms:
        """The loss of a batch.

        `rows`, `past`, `reference` and `reference_labels` are as in `compare`. The others are there for code that calls
        losses as pytorch-metric-learning does:

        Args:
            embeddings: (b, d), floating.
            labels: (b,), whole numbers.
            indices_tuple: the pairs to read of all there are: (anchors, positives, anchors, negatives), or triplets
                (anchors, positives, negatives), 1-D tensors of rows of the batch, with a reference positives and
                negatives of its rows. The loss's own miner then chooses among them. None: all pairs.
            ref_emb: another name of `reference`.
            ref_labels: another name of `reference_labels`.
            rows: (a,), the anchors.
            past: (b,), marks rows of a memory.
            reference: (g, d), what the batch is compared with instead of itself.
            reference_labels: (g,), its labels.
        """
        given: dict[str, Any] = {"rows": rows, "past": past}
        given |= {"reference": reference, "reference_labels": reference_labels}
        try:
            terms = self.terms_of(self.batch(as_call(embeddings, labels, indices_tuple, ref_emb, ref_labels, **given)))
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
            raise InvalidInput(
                "torch.func cannot differentiate this loss; use loss.backward() or torch.autograd.grad"
            ) from error
        return terms.mean() if self.reduction == "mean" else terms

    def terms_of(self, batch: Batch, across: Callable[[Tensor], Tensor] | None = None) -> Terms:
        """Both steps, in blocks where `chunk` asks for them; `across` sums a batch-wide statistic over processes."""
        if self.chunk is None:
            pairs, anchor_labels = self.pairs(batch)
            statistic = None if across is None else self.batch_statistic(pairs)
            if across is not None and statistic is not None:
                statistic = across(statistic)
            terms, synthetic_share = self.read(batch, pairs, anchor_labels, statistic), pairs.synthetic_share
        else:
            terms, synthetic_share = terms_in_blocks(self, batch, self.chunk, across)
        self.note(terms, synthetic_share)
        return terms

    @validates
    def table(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Labels,
        *,
        rows: Int[Tensor, " a"] | None = None,
        past: Bool[Tensor, " b"] | None = None,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
    ) -> tuple[Pairs, Int[Tensor, " a"]]:
        """The first step: the table of similarities, and the labels of its anchors."""
        return self.pairs(self.batch(Call(embeddings, labels, rows, past, reference, reference_labels)))

    @validates
    def batch(self, call: Call) -> Batch:
        """The batch as the table takes it: checked, without ignored rows, normalised."""
        embeddings, labels = as_batch(call.embeddings, call.labels)
        rows, past, given_labels = call.rows, as_past(call.past, embeddings), labels
        if self.ignore_index is not None:
            embeddings, labels, rows, past = without(self.ignore_index, embeddings, labels, rows, past)
        reference, of_reference = self.reference(embeddings, labels, call.reference, call.reference_labels)
        chosen = self.chosen(call.indices_tuple, given_labels, of_reference)
        if reference is not None and of_reference is not None:
            if self.ignore_index is not None:
                reference, of_reference, _, _ = without(self.ignore_index, reference, of_reference, None, None)
            reference = prepared(reference, self.normalize, check=self.check_finite, name="reference")
        elif chosen is not None:
            chosen = replace(chosen, reach=len(labels))
        embeddings = prepared(embeddings, self.normalize, check=self.check_finite)
        embeddings, labels, past = self.with_past(embeddings, labels, past)
        batch = Batch.of(embeddings, labels, rows, past, reference, of_reference)
        warn_if_degenerate(batch)
        return self.oriented(batch if chosen is None else replace(batch, chosen=chosen))

    @property
    def takes_no_pairs(self) -> str:
        """Why pairs of images cannot be chosen for the loss; empty if they can."""
        return ""

    @validates
    def chosen(
        self, indices_tuple: IndicesTuple | None, labels: Int[Tensor, " b"], of_reference: Int[Tensor, " g"] | None
    ) -> ChosenPairs | None:
        """The pairs of a call, without those of ignored rows; None: all pairs."""
        if indices_tuple is None:
            return None
        if self.takes_no_pairs:
            raise InvalidInput(f"indices_tuple is given, but {self.takes_no_pairs}; leave it out")
        chosen, others = ChosenPairs.of(indices_tuple, labels.device), labels if of_reference is None else of_reference
        chosen.check(labels, of_reference)
        if self.ignore_index is not None:
            return chosen.without(labels == self.ignore_index, others == self.ignore_index)
        return chosen

    @validates
    def reference(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Int[Tensor, " b"],
        reference: Float[Tensor, "g d"] | None,
        reference_labels: Labels | None,
    ) -> tuple[Float[Tensor, "g d"] | None, Int[Tensor, " g"] | None]:
        """What the batch is compared with where it is not the batch itself: what was given, or a loss's own proxies."""
        if reference is None and reference_labels is None:
            return None, None
        return as_reference(reference, reference_labels, embeddings, labels)

    def with_past(
        self, embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"], past: Bool[Tensor, " b"] | None
    ) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"], Bool[Tensor, " k"] | None]:
        """The rows, those that a memory has behind them, and which are past."""
        return embeddings, labels, past

    def oriented(self, batch: Batch) -> Batch:
        """The batch with its anchors in place: its rows, unless a loss turns it round. It has passed every check."""
        return batch

    def pairs(self, batch: Batch) -> tuple[Pairs, Int[Tensor, " a"]]:
        """The table of a batch that is ready, and the labels of its anchors."""
        pairs = self.compare(batch, statistics=self.statistics)
        if batch.chosen is not None:
            pairs = narrowed(pairs, batch, self.columns(batch), batch.chosen)
        if self._foreign_miner:
            pairs = mined(self.miner, pairs, batch, self.columns(batch))
        elif self.miner is not None:
            pairs = self.miner(pairs)
            if not isinstance(pairs, Pairs):
                raise InvalidType(f"the miner gives a {type(pairs).__name__}; a miner takes Pairs and gives Pairs")
        return pairs, batch.labels[batch.anchors]

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The similarities of a batch: plain here, expanded in `EmbeddingExpansion`; `statistics`: of the winners."""
        return compare_batch(batch, self.metric, partners=self.reads_partner)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """The column of the negatives that each row of the gallery belongs to: its own, or expanded its class's."""
        return torch.arange(len(batch.gallery_labels), device=batch.labels.device)

    def measured(self, batch: Batch) -> Batch:
        """The batch as its expansion takes it: another library's loss may normalise the rows by itself."""
        return batch

    @property
    def undivided(self) -> str:
        """Why the loss has no terms per anchor, so that blocks, ranks and memories cannot share it; empty if it has."""
        return ""

    @property
    def has_statistic(self) -> bool:
        """Whether the loss looks at the whole batch."""
        return type(self).statistic is not None

    def batch_statistic(self, pairs: Pairs) -> Tensor | None:
        """What a loss that looks at the whole batch sums over it; None for all other losses."""
        statistic = type(self).statistic
        if statistic is None:
            return None
        known = parameters_of(statistic)
        return statistic(pairs, **{k: v for k, v in self.parameters_of_function.items() if k in known})

    def terms(self, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None) -> Terms:
        """The second step: what each anchor adds.

        The anchors' labels are there for parameters per class. `statistic` is the whole batch's, where the pairs are a
        part of one; by default it is that of the pairs.
        """
        given = {} if statistic is None else {"statistic": statistic}
        return type(self).function(pairs, **self.parameters_of_function, **given)

    def read(
        self, batch: Batch, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None
    ) -> Terms:
        """The second step, where the whole batch is at hand; `statistic` as in `terms`."""
        return self.terms(pairs, anchor_labels, statistic)

    def note(self, terms: Terms, synthetic_share: Float[Tensor, ""] | None) -> None:
        """Keep figures of the batch in `last_statistics`, where they were asked for."""
        if self.statistics:
            if not self.undivided:
                self.last_statistics["active_share"] = terms.active_share()
            if synthetic_share is not None:
                self.last_statistics["synthetic_share"] = synthetic_share

    def extra_repr(self) -> str:
        """The parameters, as they were resolved."""
        return ", ".join(f"{name}={value!r}" for name, value in self.parameters_of_function.items())


OPTIONS = [p for p in inspect.signature(PairLoss.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
