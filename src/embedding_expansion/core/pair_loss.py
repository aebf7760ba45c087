"""A pair loss as a module: loss(embeddings, labels) -> scalar.

A loss has two steps: it makes a table of similarities, and it reads terms from the table. Expansion replaces only the
first step. With `chunk` the loss runs both steps for one block of anchors at a time.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embedding_expansion.core.balance import Contraction, Draws, figures, pull_share, read_twice
from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.chosen import IndicesTuple
from embedding_expansion.core.inputs import Labels, check_renamed, check_unit, one_reference, validates, warn_user
from embedding_expansion.core.miners import narrowed_by
from embedding_expansion.core.mining import Expansion, expand_batch
from embedding_expansion.core.numbers import numbers_of, sent
from embedding_expansion.core.pairs import Metric, Pairs, compare_batch, narrowed, selective
from embedding_expansion.core.parameters import DEFAULTS, Options, checked_options, checked_parameters, parameters_of
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import DegenerateBatchWarning, InvalidInput, InvalidType
from embedding_expansion.forms import Balance

SAMPLER = "sample several classes and at least 2 images of each, e.g. with ClassBalancedSampler"


if TYPE_CHECKING:

    class Scalar(Tensor):
        """A tensor without dimensions. It has no length, which a type checker reports."""

        __len__: None  # type: ignore[assignment]


class PairLoss(nn.Module):
    """A pair loss on embeddings and labels.

    Args:
        parameters: the parameters of the loss function, by name. The losses of this package take each parameter as an
            argument instead.
        normalize: L2-normalise the embeddings first.
        reduction: "mean". The deprecated "none" makes a call return `Terms`; use `per_anchor` instead.
        ignore_index: a label whose rows are ignored.
        check_finite: also check for NaN and infinite embeddings on CUDA and, where unit vectors are required, for their
            norms, which synchronises the GPU. On the CPU the loss always checks.
        miner: selects pairs of the table before the loss reads it: a callable `Pairs -> Pairs` (see `miners`), or a
            miner of pytorch-metric-learning (see `mined`). By default the loss reads all pairs.
        chunk: compute the loss for this many anchors at a time, and again in the backward pass. Memory then grows with
            the block and not with the batch. By default all anchors are computed at once.
        statistics: keep figures of the last batch in `last_statistics`, as detached scalar tensors: `active_share`, the
            share of anchors with a term above 0, and with expansion `synthetic_share`, the share of synthetic points
            among the points of the selected hardest pairs. A balanced expansion adds `balance`, the share of the pull
            that is kept, `pull` and `push` of the expanded table, `plain_pull` and `plain_push` of the plain one, and
            `no_push`, which is 1 if the push is at most 0.

    Shapes: embeddings (b, d), floating; labels (b,), whole numbers; the result is a float32 (or float64) scalar.

    Raises:
        InvalidInput, InvalidType, UnknownName: if an option or a batch cannot be used.

    An empty batch, a batch of one class or one without a positive pair does not raise an error. The loss computes the
    terms that remain and issues a DegenerateBatchWarning with the reason.

    Example:
        >>> from embedding_expansion import MultiSimilarityLoss
        >>> loss = MultiSimilarityLoss(alpha=2.0)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss(embeddings, [0, 0, 1, 1])
        tensor(0.2688, grad_fn=<DotBackward0>)
    """

    function: ClassVar[Callable[..., Terms]]
    name: ClassVar[str]
    metric: Metric  # set by the class, or by the adapter of a loss of another library
    reads_partner: ClassVar[bool]
    positive: ClassVar[tuple[str, ...]]
    monotone: ClassVar[bool]
    statistic: ClassVar[Callable[..., Tensor] | None] = None
    not_expandable: ClassVar[str] = ""
    balance: Balance = False  # this and `selective` are set by an expansion; see `EmbeddingExpansion`
    selective: bool = False

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
        """Declares a loss through the arguments of its class statement.

        A class without an `__init__` gets one with the parameters of the function. Write `__init__` out if a type
        checker should see the parameters.

        Args:
            function: the loss function, `Pairs -> Terms`. Its parameters become the parameters of the module.
            name: the name of the loss in configurations; by default the name of the function.
            metric: the similarity that the loss reads.
            reads_partner: whether the loss also reads the negatives of a positive.
            positive: the parameters that must be above 0.
            monotone: whether the value never falls when negatives become more similar.
            statistic: for a loss that depends on the whole batch, a function `Pairs -> Tensor`, with gradient, whose
                sum over blocks of anchors is the statistic of the batch. The loss function then takes that sum as the
                keyword `statistic`.
            not_expandable: the reason why the loss cannot be expanded; empty if it can.
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
        if self.reduction == "none":
            warn_user("reduction='none' is deprecated: call loss.per_anchor(...) instead", DeprecationWarning)
        self.parameters_of_function: dict[str, Any] = {}
        if function is not None:
            self.parameters_of_function = checked_parameters(type(self), function, parameters or {})
        self.last_statistics: dict[str, Tensor] = {}

    if TYPE_CHECKING:  # the __call__ of nn.Module has no types for arguments and result

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
        """Computes the loss of a batch, a scalar.

        `rows`, `from_memory`, `reference` and `reference_labels` are as in `compare`. `indices_tuple`, `ref_emb` and
        `ref_labels` support code that calls losses as pytorch-metric-learning does.

        Args:
            embeddings: (b, d), floating.
            labels: (b,), whole numbers. Labels on the CPU also serve embeddings on a GPU; then no step waits for it.
            indices_tuple: the pairs that the loss reads: (anchors, positives, anchors, negatives), or triplets
                (anchors, positives, negatives), each a 1-D tensor of row indices of the batch. With a reference,
                positives and negatives are rows of the reference. The miner of the loss, if there is one, selects
                among these pairs. None: all pairs.
            ref_emb: another name of `reference`.
            ref_labels: another name of `reference_labels`.
            rows: (a,), the rows that are anchors.
            from_memory: (b,), True for rows that come from a memory.
            reference: (g, d), the embeddings to compare the batch with instead of itself.
            reference_labels: (g,), the labels of the reference.
            past: the deprecated name of `from_memory`.
        """
        if past is not None:
            from_memory = check_renamed("past", past, "from_memory", from_memory)
        if self.balance and torch.compiler.is_compiling():  # lambda is a derivative that a graph cannot hold
            given: tuple[Any, ...] = (embeddings, labels, indices_tuple, ref_emb, ref_labels)
            uncompiled: Tensor = torch.compiler.disable(self.forward)(  # type: ignore[no-untyped-call]
                *given, rows=rows, from_memory=from_memory, reference=reference, reference_labels=reference_labels
            )
            return uncompiled
        if ref_emb is not None or ref_labels is not None:
            reference, reference_labels = one_reference(ref_emb, ref_labels, reference, reference_labels)
        try:
            inputs = Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels, indices_tuple)
            terms = self.terms_of(self.batch(inputs))
        except RuntimeError as error:
            # The second is of torch 2.8, whose torch.func hides the values of labels.
            if not any(words in str(error) for words in ("setup_context", "doesn't have storage")):
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
        """Computes what each anchor adds to the loss of a batch, and the weight of each anchor.

        The value of the loss is `loss.per_anchor(...).mean()`. Arguments and errors are as in a call of the loss.
        """
        inputs = Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels, indices_tuple)
        return self.terms_of(self.batch(inputs))

    def terms_of(self, batch: Batch, across: Callable[[Tensor], Tensor] | None = None) -> Terms:
        """Runs both steps, in blocks if `chunk` is set. `across` sums a statistic of the batch over processes."""
        trains = torch.is_grad_enabled() and (batch.embeddings.requires_grad or batch.gallery.requires_grad)
        if self.balance and trains and not batch.is_empty:
            balanced: Terms = self._balanced(batch, across)
            return balanced
        terms, synthetic_share = self.read(batch, self.pairs, across)
        self.note(terms, synthetic_share)
        return terms

    def read(
        self, batch: Batch, table: Callable[[Batch], Pairs], across: Callable[[Tensor], Tensor] | None
    ) -> tuple[Terms, Tensor | None]:
        """The terms of the tables that `table` makes, and the share of synthetic points where they hold it."""
        if self.chunk is not None:
            return terms_in_blocks(self, batch, self.chunk, table, across)
        pairs = table(batch)
        statistic = None if across is None else self.batch_statistic(pairs)
        if across is not None and statistic is not None:
            statistic = across(statistic)
        return self.terms(pairs, batch, statistic), pairs.synthetic_share

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _balanced(self, batch: Batch, across: Callable[[Tensor], Tensor] | None) -> Terms:
        """The terms of the expanded table, whose gradient of the positives is multiplied by lambda; see balance.py.

        One reading of the expanded table serves its forces and the loss.
        """
        plain = copy.copy(self.plain())
        plain._modules = {name: module for name, module in plain._modules.items() if name != "miner"}
        plain.normalize, plain.miner, plain.chunk = self.normalize, self.miner, self.chunk
        if (plain.metric == "inner" or self.balance == "sphere") and not plain.normalizes:
            remedy = "normalise them, leave normalize at True, or use balance=False"
            for rows in (batch.embeddings, batch.gallery) if batch.has_reference else (batch.embeddings,):
                check_unit(rows, "this balance is defined for unit vectors", remedy, check=self.check_finite)
        batch = read_twice(batch, sphere=self.balance == "sphere", whole=self.chunk is None)
        draws = Draws(self.miner, batch.embeddings.device)
        expanded, unexpanded = Contraction(batch.embeddings), Contraction(batch.embeddings)
        terms, synthetic_share = self.read(batch, lambda part: expanded.watch(self.pairs(part)), across)
        of_expanded = expanded.forces(terms, across)
        with draws.again():
            compared = plain.read(batch.detached, lambda part: unexpanded.watch(plain.pairs(part)), across)[0]
            of_plain = unexpanded.forces(compared, across)
        expanded.share = pull_share(of_expanded, of_plain)
        self.note(terms, synthetic_share)
        if self.statistics:
            self.last_statistics.update(figures(of_expanded, of_plain, expanded.share))
        return terms

    def plain(self) -> PairLoss:
        """The loss that reads the plain table: this one, or the one inside an expansion or a memory."""
        return self

    @property
    def normalizes(self) -> bool:
        """Whether the rows that the loss compares are unit vectors."""
        return self.normalize

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
        """Runs the first step: returns the table of similarities, and the batch that it is made from."""
        batch = self.batch(Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels))
        return self.pairs(batch), batch

    def batch(self, inputs: Inputs) -> Batch:
        """Makes the batch for the table: removes ignored rows and normalises the others."""
        if inputs.chosen is not None:
            if self.takes_no_pairs:
                raise InvalidInput(f"indices_tuple is given, but {self.takes_no_pairs}; leave it out")
            inputs.chosen.check(inputs.labels, inputs.reference_labels)
        if self.ignore_index is None:
            inputs = self.with_reference(inputs)
        else:  # twice: the loss may not know the ignored label, and its reference may hold proxies of it
            inputs = self.with_reference(inputs.without(self.ignore_index)).without(self.ignore_index)
        batch = self.prepared(inputs)
        self.warn_if_degenerate(batch)
        return self.with_anchors(batch)

    @property
    def takes_no_pairs(self) -> str:
        """The reason why the loss does not accept an `indices_tuple`; empty if it does."""
        return ""

    def with_reference(self, inputs: Inputs) -> Inputs:
        """The arguments; a loss with proxies adds them as the reference."""
        return inputs

    def prepared(self, inputs: Inputs) -> Batch:
        """Makes the batch with normalised rows; a memory appends the rows of its queue."""
        return Batch.prepared(inputs, normalize=self.normalize, check=self.check_finite)

    def with_anchors(self, batch: Batch) -> Batch:
        """The batch with the anchors of this loss: the rows of the batch or, in some losses, the proxies."""
        return batch

    def warn_if_degenerate(self, batch: Batch) -> None:
        """Warns about a degenerate batch. The warning points at the line that calls the loss."""
        reason = None if torch.compiler.is_compiling() else batch.why_degenerate()
        if reason is not None:
            warn_user(f"{reason}; {SAMPLER}", DegenerateBatchWarning)

    def pairs(self, batch: Batch) -> Pairs:
        """The table of a batch, restricted to the pairs that the caller and the miner choose."""
        pairs = self.compare(batch, statistics=self.statistics)
        if batch.chosen is not None:
            pairs = narrowed(pairs, batch, self.columns(batch), batch.chosen)
        if self.miner is not None:
            pairs = narrowed_by(self.miner, pairs, batch, self.columns(batch))
        return selective(pairs) if self.selective else pairs

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The table of all pairs of a batch; `statistics` adds the share of synthetic points."""
        return compare_batch(batch, self.metric, partners=self.reads_partner)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """The column of `Pairs.negative` for each row of the gallery: its own column, or that of its class."""
        return torch.arange(len(batch.gallery_labels), device=batch.labels.device)

    def expanded(self, batch: Batch, expansion: Expansion, *, statistics: bool) -> Pairs:
        """The expanded table of a batch; `statistics` adds the share of synthetic points."""
        return expand_batch(batch, expansion, partners=self.reads_partner, statistics=statistics)

    @property
    def indivisible(self) -> str:
        """The reason why the loss has no terms per anchor, which blocks, ranks and memories need; empty if it has."""
        return ""

    @property
    def has_statistic(self) -> bool:
        """Whether the loss depends on a statistic of the whole batch."""
        return type(self).statistic is not None

    def batch_statistic(self, pairs: Pairs) -> Tensor | None:
        """The statistic of these pairs, for a loss that depends on the whole batch; None for other losses."""
        statistic = type(self).statistic
        if statistic is None:
            return None
        known = parameters_of(statistic)
        return statistic(pairs, **{k: v for k, v in self.parameters_of_function.items() if k in known})

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """Runs the second step: computes what each anchor adds.

        Args:
            pairs: the table, or a block of its rows.
            batch: the batch that the table is made from; losses with parameters per class read its labels.
            statistic: the statistic of the whole batch, if the table is only a block of it; by default the statistic
                of the table.
        """
        given = {} if statistic is None else {"statistic": statistic}
        return type(self).function(pairs, **self.parameters_of_function, **given)

    def note(self, terms: Terms, synthetic_share: Float[Tensor, ""] | None) -> None:
        """Keeps figures of the batch in `last_statistics`, if the option `statistics` is set."""
        if self.statistics:
            self.last_statistics.clear()
            if not self.indivisible:
                self.last_statistics["active_share"] = terms.active_share()
            if synthetic_share is not None:
                self.last_statistics["synthetic_share"] = synthetic_share

    def extra_repr(self) -> str:
        """The values of all parameters, given or default."""
        return ", ".join(f"{name}={value!r}" for name, value in self.parameters_of_function.items())


def _write_init(kind: type[PairLoss], function: Callable[..., Terms]) -> None:
    """Adds an `__init__` to a class; it takes the parameters of the function by position or by name."""
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
    """A loss that delegates to another loss, whose options it inherits.

    Args:
        loss: the wrapped loss.
        **options: as in `PairLoss`; by default the options of the wrapped loss.

    Raises:
        UnknownName: if an option does not exist.
    """

    loss: PairLoss

    @validates
    def __init__(self, loss: PairLoss, **options: Unpack[Options]) -> None:
        inherited: Any = {name: getattr(loss, name) for name in DEFAULTS}
        super().__init__(**{**inherited, **options})
        self.loss, self.balance, self.selective = loss, loss.balance, loss.selective

    def with_reference(self, inputs: Inputs) -> Inputs:
        """The arguments; a wrapped loss with proxies adds them as the reference."""
        return self.loss.with_reference(inputs)

    def with_anchors(self, batch: Batch) -> Batch:
        """The batch with the anchors of the wrapped loss."""
        return self.loss.with_anchors(batch)

    def plain(self) -> PairLoss:
        """The innermost loss, which reads the plain table."""
        return self.loss.plain()

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The table that the wrapped loss makes of a batch."""
        return self.loss.compare(batch, statistics=statistics)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """The column for each row of the gallery in the table of the wrapped loss."""
        return self.loss.columns(batch)

    @property
    def indivisible(self) -> str:
        """The reason why the wrapped loss has no terms per anchor; empty if it has."""
        return self.loss.indivisible

    @property
    def takes_no_pairs(self) -> str:
        """The reason why the wrapped loss does not accept an `indices_tuple`; empty if it does."""
        return self.loss.takes_no_pairs

    @property
    def has_statistic(self) -> bool:
        """Whether the wrapped loss depends on a statistic of the whole batch."""
        return self.loss.has_statistic

    def batch_statistic(self, pairs: Pairs) -> Tensor | None:
        """The statistic that the wrapped loss computes of these pairs."""
        return self.loss.batch_statistic(pairs)

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """What each anchor adds to the wrapped loss."""
        return self.loss.terms(pairs, batch, statistic)


def terms_in_blocks(
    loss: PairLoss,
    batch: Batch,
    chunk: int,
    table: Callable[[Batch], Pairs],
    across: Callable[[Tensor], Tensor] | None,
) -> tuple[Terms, Tensor | None]:
    """Computes what each anchor adds for `chunk` anchors at a time, and again in the backward pass.

    The result equals that of the whole batch, with one exception: where several pairs of points are exactly equally
    hard, a block may select another winner and pass its gradient. Anchors of one class share a block where possible,
    because expansion searches each class once per block.

    Args:
        loss: the loss.
        batch: the whole batch.
        chunk: the number of anchors of a block.
        table: makes the table of a block.
        across: sums a statistic of the batch over processes.

    Returns:
        The terms, and the mean of the blocks' shares of synthetic points where the table holds a share.
    """
    order, blocks = _blocks(batch, chunk)

    # torch.compile in torch 2.15 cannot partition a graph that recomputes blocks which are read twice.
    keep = torch.compiler.is_compiling() and loss.has_statistic

    def of_block(function: Callable[[Batch], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        def run(embeddings: Tensor, gallery: Tensor, block: Tensor) -> tuple[Tensor, ...]:
            gallery = gallery if batch.has_reference else embeddings
            part = replace(batch, embeddings=embeddings, gallery=gallery, anchors=block, every_row=False)
            return function(part)

        given = batch.embeddings, batch.gallery
        if keep:
            return [run(*given, block) for block in blocks]
        return [checkpoint(run, *given, block, use_reentrant=False) for block in blocks]

    def statistics(part: Batch) -> tuple[Tensor, ...]:
        found = loss.batch_statistic(table(part))
        return () if found is None else (found,)

    statistic = None
    if loss.has_statistic:
        with Draws(loss.miner, batch.embeddings.device).again():  # the terms are those of the same pairs
            statistic = torch.stack([found for (found,) in of_block(statistics)]).sum(dim=0)
        statistic = statistic if across is None else across(statistic)

    def terms(part: Batch) -> tuple[Tensor, ...]:
        pairs = table(part)
        found = loss.terms(pairs, part, statistic)
        share = () if pairs.synthetic_share is None else (pairs.synthetic_share,)
        return found.total, found.weight, *share

    parts = of_block(terms)
    inverse = torch.argsort(order)
    total, weight = (torch.cat([part[k] for part in parts], dim=1)[:, inverse] for k in (0, 1))
    shares = [share for part in parts for share in part[2:]]
    return Terms(total, weight), torch.stack(shares).mean() if shares else None


def _blocks(batch: Batch, chunk: int) -> tuple[Int[Tensor, " a"], list[Int[Tensor, " k"]]]:
    """The order of the anchors by class, and the anchors of each block."""
    anchors, labels = (None if torch.compiler.is_compiling() else numbers_of(x) for x in (batch.anchors, batch.labels))
    if anchors is None or labels is None:
        order = torch.argsort(batch.labels[batch.anchors], stable=True)
        return order, list(torch.split(batch.anchors[order], chunk))
    by_class = sorted(range(len(anchors)), key=lambda k: labels[anchors[k]])
    ordered, device = [anchors[k] for k in by_class], batch.labels.device
    blocks = [sent(ordered[first : first + chunk], device) for first in range(0, len(ordered), chunk)]
    return sent(by_class, device), blocks
