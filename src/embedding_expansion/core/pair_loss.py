"""A pair loss as a module: loss(embeddings, labels) -> scalar.

It works in two steps, the table of similarities and the terms read from it: expansion replaces the first only. With
`chunk` both are done for a block of anchors at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.chosen import IndicesTuple
from embedding_expansion.core.inputs import Labels, check_renamed, one_reference, validates, warn_user
from embedding_expansion.core.miners import narrowed_by
from embedding_expansion.core.mining import Expansion, expand_batch
from embedding_expansion.core.pairs import Metric, Pairs, compare_batch, narrowed
from embedding_expansion.core.parameters import DEFAULTS, Options, checked_options, checked_parameters, parameters_of
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import DegenerateBatchWarning, InvalidInput, InvalidType

SAMPLER = "sample several classes and at least 2 images of each, e.g. with ClassBalancedSampler"


if TYPE_CHECKING:

    class Scalar(Tensor):
        """A tensor without dimensions, which has no length."""

        __len__: None  # type: ignore[assignment]


class PairLoss(nn.Module):
    """A pair loss on embeddings and labels.

    Args:
        parameters: of the loss function, by name; a loss of this package takes each of them as an argument.
        normalize: L2-normalise the embeddings first.
        reduction: "mean". "none", which makes a call give `Terms`, is deprecated: use `per_anchor`.
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
    name: ClassVar[str]
    metric: Metric  # of the class, or of a loss of another library
    reads_partner: ClassVar[bool]
    positive: ClassVar[tuple[str, ...]]
    monotone: ClassVar[bool]
    statistic: ClassVar[Callable[..., Tensor] | None] = None
    not_expandable: ClassVar[str] = ""

    def __init_subclass__(
        cls,
        *,
        function: Callable[..., Terms] | None = None,
        name: str | None = None,
        metric: Metric = "euclidean",
        reads_partner: bool = False,
        positive: tuple[str, ...] = (),
        monotone: bool = True,
        statistic: Callable[..., Tensor] | None = None,
        not_expandable: str = "",
    ) -> None:
        """What a loss says of itself in its class line.

        A class without an `__init__` gets one with the parameters of the function; write it out where a type checker
        should see them.

        Args:
            function: `Pairs -> Terms`; its parameters are the module's.
            name: of the loss in configurations; by default that of the function.
            metric: which similarity it reads.
            reads_partner: whether it reads the negatives of a positive as well.
            positive: parameters that must be above 0.
            monotone: whether the value never falls when negatives become more similar.
            statistic: of a loss that looks at the whole batch: `Pairs -> Tensor`, with gradient, such that the sum over
                blocks of anchors is the batch's. The function then takes that sum as the keyword `statistic`.
            not_expandable: why the loss cannot be expanded; empty where it can.
        """
        if function is None:
            return
        cls.function, cls.name = staticmethod(function), function.__name__ if name is None else name
        cls.metric, cls.reads_partner, cls.positive, cls.monotone = metric, reads_partner, positive, monotone
        cls.statistic = None if statistic is None else staticmethod(statistic)
        cls.not_expandable = not_expandable
        if cls.__init__ is PairLoss.__init__:
            _write_init(cls, function)

    @validates
    def __init__(self, parameters: Mapping[str, Any] | None = None, /, **options: Unpack[Options]) -> None:
        super().__init__()
        function = getattr(type(self), "function", None)
        checked = checked_options(type(self), options, {} if function is None else parameters_of(function))
        self.normalize, self.reduction, self.chunk = checked["normalize"], checked["reduction"], checked["chunk"]
        self.ignore_index, self.check_finite = checked["ignore_index"], checked["check_finite"]
        self.miner, self.statistics = checked["miner"], checked["statistics"]
        self.parameters_of_function: dict[str, Any] = {}
        if function is not None:
            self.parameters_of_function = checked_parameters(type(self), function, parameters or {})
        self.last_statistics: dict[str, Tensor] = {}

    if TYPE_CHECKING:  # nn.Module's own says nothing of arguments and result

        def __call__(  # noqa: D102
            self,
            embeddings: Tensor,
            labels: Labels,
            indices_tuple: tuple[Tensor, ...] | None = None,
            ref_emb: Tensor | None = None,
            ref_labels: Labels | None = None,
            *,
            rows: Tensor | None = None,
            from_memory: Tensor | None = None,
            reference: Tensor | None = None,
            reference_labels: Labels | None = None,
        ) -> Scalar: ...

    @validates
    def forward(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Labels | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Float[Tensor, "g d"] | None = None,
        ref_labels: Labels | None = None,
        *,
        rows: Int[Tensor, " a"] | None = None,
        from_memory: Bool[Tensor, " b"] | None = None,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
        past: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss of a batch, a scalar.

        `rows`, `from_memory`, `reference` and `reference_labels` are as in `compare`. The others are there for code
        that calls losses as pytorch-metric-learning does:

        Args:
            embeddings: (b, d), floating.
            labels: (b,), whole numbers.
            indices_tuple: the pairs to read of all there are: (anchors, positives, anchors, negatives), or triplets
                (anchors, positives, negatives), 1-D tensors of rows of the batch, with a reference positives and
                negatives of its rows. The loss's own miner then chooses among them. None: all pairs.
            ref_emb: another name of `reference`.
            ref_labels: another name of `reference_labels`.
            rows: (a,), the anchors.
            from_memory: (b,), marks rows of a memory.
            reference: (g, d), what the batch is compared with instead of itself.
            reference_labels: (g,), its labels.
            past: the old name of `from_memory`, with a DeprecationWarning.
        """
        if past is not None:
            from_memory = check_renamed("past", past, "from_memory", from_memory)
        if ref_emb is not None or ref_labels is not None:
            reference, reference_labels = one_reference(ref_emb, ref_labels, reference, reference_labels)
        inputs = Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels, indices_tuple)
        try:
            terms = self.terms_of(self.batch(inputs))
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
            raise InvalidInput(
                "torch.func cannot differentiate this loss; use loss.backward() or torch.autograd.grad"
            ) from error
        if self.reduction == "mean":
            return terms.mean()
        unreduced: Any = terms
        return unreduced  # type: ignore[no-any-return]  # for one release

    @validates
    def per_anchor(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Labels,
        indices_tuple: IndicesTuple | None = None,
        *,
        rows: Int[Tensor, " a"] | None = None,
        from_memory: Bool[Tensor, " b"] | None = None,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
    ) -> Terms:
        """What each anchor adds to the loss of a batch, and how much it weighs.

        The value of the loss is `loss.per_anchor(...).mean()`. Arguments and errors are those of a call.
        """
        inputs = Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels, indices_tuple)
        return self.terms_of(self.batch(inputs))

    def terms_of(self, batch: Batch, across: Callable[[Tensor], Tensor] | None = None) -> Terms:
        """Both steps, in blocks where `chunk` asks for them; `across` sums a batch-wide statistic over processes."""
        if self.chunk is None:
            pairs = self.pairs(batch)
            statistic = None if across is None else self.batch_statistic(pairs)
            if across is not None and statistic is not None:
                statistic = across(statistic)
            terms, synthetic_share = self.terms(pairs, batch, statistic), pairs.synthetic_share
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
        from_memory: Bool[Tensor, " b"] | None = None,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
    ) -> tuple[Pairs, Batch]:
        """The first step: the table of similarities, and the batch that it was made from."""
        batch = self.batch(Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels))
        return self.pairs(batch), batch

    def batch(self, inputs: Inputs) -> Batch:
        """The batch of checked arguments as the table takes it: without ignored rows, normalised."""
        if inputs.chosen is not None:
            if self.takes_no_pairs:
                raise InvalidInput(f"indices_tuple is given, but {self.takes_no_pairs}; leave it out")
            inputs.chosen.check(inputs.labels, inputs.reference_labels)
        if self.ignore_index is None:
            inputs = self.with_reference(inputs)
        else:  # twice: the loss may number classes without the ignored one, and bring a proxy of it
            inputs = self.with_reference(inputs.without(self.ignore_index)).without(self.ignore_index)
        batch = self.prepared(inputs)
        self.warn_if_degenerate(batch)
        return self.with_anchors(batch)

    @property
    def takes_no_pairs(self) -> str:
        """Why pairs of images cannot be chosen for the loss; empty if they can."""
        return ""

    def with_reference(self, inputs: Inputs) -> Inputs:
        """The arguments, with the proxies of a loss that has some as the reference."""
        return inputs

    def prepared(self, inputs: Inputs) -> Batch:
        """The batch with normalised rows; a memory adds its own."""
        return Batch.prepared(inputs, normalize=self.normalize, check=self.check_finite)

    def with_anchors(self, batch: Batch) -> Batch:
        """The batch whose anchors are the rows that the loss takes as anchors."""
        return batch

    def warn_if_degenerate(self, batch: Batch) -> None:
        """Warn, at the line that calls the loss, of a batch that teaches little."""
        reason = None if torch.compiler.is_compiling() else batch.why_degenerate()
        if reason is not None:
            warn_user(f"{reason}; {SAMPLER}", DegenerateBatchWarning)

    def pairs(self, batch: Batch) -> Pairs:
        """The table of a batch."""
        pairs = self.compare(batch, statistics=self.statistics)
        if batch.chosen is not None:
            pairs = narrowed(pairs, batch, self.columns(batch), batch.chosen)
        return pairs if self.miner is None else narrowed_by(self.miner, pairs, batch, self.columns(batch))

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The similarities of a batch; `statistics`: with the share of synthetic points."""
        return compare_batch(batch, self.metric, partners=self.reads_partner)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """The column of the negatives that each row of the gallery belongs to: one for each row, or for its class."""
        return torch.arange(len(batch.gallery_labels), device=batch.labels.device)

    def expanded(self, batch: Batch, expansion: Expansion, *, statistics: bool) -> Pairs:
        """The expanded table of a batch; `statistics`: with the share of synthetic points."""
        return expand_batch(batch, expansion, partners=self.reads_partner, statistics=statistics)

    @property
    def indivisible(self) -> str:
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

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """The second step: what each anchor adds.

        Args:
            pairs: the table, or some of its rows.
            batch: what the table was made from; parameters per class look at its labels.
            statistic: that of the whole batch, where the table is a part of one; by default that of the table.
        """
        given = {} if statistic is None else {"statistic": statistic}
        return type(self).function(pairs, **self.parameters_of_function, **given)

    def note(self, terms: Terms, synthetic_share: Float[Tensor, ""] | None) -> None:
        """Keep figures of the batch in `last_statistics`, where they were asked for."""
        if self.statistics:
            if not self.indivisible:
                self.last_statistics["active_share"] = terms.active_share()
            if synthetic_share is not None:
                self.last_statistics["synthetic_share"] = synthetic_share

    def extra_repr(self) -> str:
        """The parameters, as they were resolved."""
        return ", ".join(f"{name}={value!r}" for name, value in self.parameters_of_function.items())


def _write_init(kind: type[PairLoss], function: Callable[..., Terms]) -> None:
    """Give a class without an `__init__` one that takes the parameters of its function, by position or by name."""
    known = parameters_of(function)

    @validates
    def __init__(self: PairLoss, *given: Any, **named: Any) -> None:  # noqa: N807
        if len(given) > len(known):
            raise InvalidType(f"{kind.__name__} takes at most {len(known)} parameters, {len(given)} were given")
        values = dict(zip(known, given, strict=False))
        for name in named.keys() & values.keys():
            raise InvalidType(f"{name} of {kind.__name__} is given twice, {values[name]!r} and {named[name]!r}")
        values |= {name: value for name, value in named.items() if name in known}
        options: Any = {name: value for name, value in named.items() if name not in known}
        PairLoss.__init__(self, values, **options)

    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in DEFAULTS.items()
    ]
    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.Signature([first, *known.values(), *options])
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    kind.__init__ = __init__  # type: ignore[method-assign]


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
    def __init__(self, loss: PairLoss, **options: Unpack[Options]) -> None:
        inherited: Any = {name: getattr(loss, name) for name in DEFAULTS}
        super().__init__(**{**inherited, **options})
        self.loss = loss

    def with_reference(self, inputs: Inputs) -> Inputs:
        """With the proxies of the loss inside, where it has some."""
        return self.loss.with_reference(inputs)

    def with_anchors(self, batch: Batch) -> Batch:
        """As the loss inside takes them."""
        return self.loss.with_anchors(batch)

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """By the loss inside."""
        return self.loss.compare(batch, statistics=statistics)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """As in the table of the loss inside."""
        return self.loss.columns(batch)

    @property
    def indivisible(self) -> str:
        """Why the loss inside has no terms per anchor; empty if it has."""
        return self.loss.indivisible

    @property
    def takes_no_pairs(self) -> str:
        """Why pairs cannot be chosen for the loss inside; empty if they can."""
        return self.loss.takes_no_pairs

    @property
    def has_statistic(self) -> bool:
        """Whether the loss inside looks at the whole batch."""
        return self.loss.has_statistic

    def batch_statistic(self, pairs: Pairs) -> Tensor | None:
        """That of the loss inside."""
        return self.loss.batch_statistic(pairs)

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """What each anchor adds, by the loss inside."""
        return self.loss.terms(pairs, batch, statistic)


def terms_in_blocks(
    loss: PairLoss, batch: Batch, chunk: int, across: Callable[[Tensor], Tensor] | None = None
) -> tuple[Terms, Tensor | None]:
    """What each anchor adds, computed for `chunk` anchors at a time and again in the backward pass.

    Equal to the whole batch's, but where pairs of points are exactly as hard as others: there a block may pass the
    gradient of another winner. Anchors of a class come together, since expansion looks at their class once a block.
    `across` sums a batch-wide statistic over processes. Also gives the mean of the blocks' shares of synthetic points.
    """
    order = torch.argsort(batch.labels[batch.anchors], stable=True)
    blocks = torch.split(order, chunk)

    # Compiled, blocks that are read twice cannot be computed again: torch 2.15 does not partition such a graph.
    keep = torch.compiler.is_compiling() and loss.has_statistic

    def of_block(function: Callable[[Batch], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        def run(embeddings: Tensor, gallery: Tensor, block: Tensor) -> tuple[Tensor, ...]:
            gallery = gallery if batch.has_reference else embeddings
            part = replace(batch, embeddings=embeddings, gallery=gallery, anchors=batch.anchors[block], every_row=False)
            return function(part)

        given = batch.embeddings, batch.gallery
        if keep:
            return [run(*given, block) for block in blocks]
        return [checkpoint(run, *given, block, use_reentrant=False) for block in blocks]

    def statistics(part: Batch) -> tuple[Tensor, ...]:
        found = loss.batch_statistic(loss.pairs(part))
        return () if found is None else (found,)

    statistic = None
    if loss.has_statistic:
        with nullcontext() if loss.miner is None else _draws_kept(batch.embeddings.device):
            statistic = torch.stack([found for (found,) in of_block(statistics)]).sum(dim=0)
        statistic = statistic if across is None else across(statistic)

    def terms(part: Batch) -> tuple[Tensor, ...]:
        pairs = loss.pairs(part)
        found = loss.terms(pairs, part, statistic)
        share = () if pairs.synthetic_share is None else (pairs.synthetic_share,)
        return found.total, found.weight, *share

    parts = of_block(terms)
    back = torch.argsort(order)
    total, weight = (torch.cat([part[k] for part in parts], dim=1)[:, back] for k in (0, 1))
    shares = [share for part in parts for share in part[2:]]
    return Terms(total, weight), torch.stack(shares).mean() if shares else None


def _draws_kept(device: torch.device) -> AbstractContextManager[None]:
    """After it random draws are what they would have been: a miner draws the same for the statistic and the terms."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
