"""The checked arguments of a loss, the batch that its table is made from, and what follows from its labels.

Batches of a training run repeat few patterns: which rows are of one class. What follows from a pattern is kept for the
next batch that has it. The key is the whole pattern, so that it cannot be mistaken for another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.chosen import ChosenPairs, IndicesTuple
from embedding_expansion.core.classes import Classes, group, partners, positives, rows_where
from embedding_expansion.core.inputs import (
    LARGEST,
    Labels,
    as_memory_mask,
    as_numbered_batch,
    as_reference,
    as_rows,
    check_finite,
    validates,
)
from embedding_expansion.core.kept import kept
from embedding_expansion.core.numbers import Numbers, moved, numbers_of, on_cpu, read, remember, sent

LARGEST_KEPT = 1 << 20  # entries of a table beyond which nothing is kept: at most 10 MB for a layout, of two classes
LARGEST_KEPT_ON_GPU = 1 << 24


def numbered(values: Sequence[int], order: Iterable[int]) -> tuple[int, ...]:
    """The place of every value in `order`, where each occurs once or more often."""
    place = {value: number for number, value in enumerate(dict.fromkeys(order))}
    return tuple(map(place.__getitem__, values))


def group_values(values: tuple[int, ...], device: torch.device) -> Classes:
    """`group` for labels that are known as numbers: without an operation whose result depends on data."""
    label = sorted(set(values))
    of_row = numbered(values, label)
    return Classes(sent(label, device), *_rows_of_classes(of_row, device), runs_of_pattern(of_row))


def group_adjacent(labels: Int[Tensor, " g"], k: int) -> Classes:
    """`group` for the labels 0, 1, 2, ..., each k times."""
    rows = torch.arange(len(labels), device=labels.device)
    start = rows[::k]
    return Classes(rows[: len(start)], labels, rows, start, torch.full_like(start, k), ((k, len(start)),))


def runs_of_pattern(pattern: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """`Classes.runs` for the class of every row."""
    return tuple(sorted(Counter(Counter(pattern).values()).items()))


def _rows_of_classes(of_row: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`of_row`, `order`, `start` and `size` of `Classes`."""
    count = Counter(of_row)
    size = [count[number] for number in range(len(count))]
    start = [0] * len(size)
    for number in range(1, len(size)):
        start[number] = start[number - 1] + size[number - 1]
    order = sorted(range(len(of_row)), key=of_row.__getitem__)
    return sent(of_row, device), sent(order, device), sent(start, device), sent(size, device)


class PlainLayout(NamedTuple):
    """The slots of positives and the mask of negatives where all rows are compared with each other."""

    positive: Int[Tensor, "b p"]
    positive_mask: Bool[Tensor, "b p"]
    negative_mask: Bool[Tensor, "b b"]


def plain_layout(values: tuple[int, ...], device: torch.device) -> PlainLayout:
    """The layout of a batch with these labels. Only the pattern counts: which of the labels are equal."""
    make = _plain_layout if len(values) ** 2 <= largest_kept(device) else _plain_layout.__wrapped__  # type: ignore[attr-defined]
    found: PlainLayout = make(numbered(values, values), device)
    return found


def largest_kept(device: torch.device) -> int:
    """The entries of a table beyond which nothing is kept of its pattern."""
    return LARGEST_KEPT if device.type == "cpu" else LARGEST_KEPT_ON_GPU


@kept
def _plain_layout(pattern: tuple[int, ...], device: torch.device) -> PlainLayout:
    of_row, order, start, size = _rows_of_classes(pattern, device)
    numbers = torch.arange(len(size), device=device)
    classes = Classes(numbers, of_row, order, start, size, runs_of_pattern(pattern))
    everyone = torch.arange(len(pattern), device=device)
    index, mask = classes.positives(classes.of_row, everyone, of_all=True)
    return PlainLayout(index, mask, classes.of_row[:, None] != classes.of_row)


@kept
def _everyone(count: int, device: torch.device) -> tuple[Int[Tensor, " b"]]:
    return (remember(torch.arange(count, device=device), range(count)),)


@kept
def _adjacent(classes: int, k: int, device: torch.device) -> tuple[Int[Tensor, " g"]]:
    labels = torch.arange(classes, device=device)[:, None].expand(classes, k).reshape(-1)
    return (labels if torch.compiler.is_compiling() else remember(labels, _repeated(classes, k)),)


def _repeated(classes: int, k: int) -> Numbers:
    return tuple(number for number in range(classes) for _ in range(k))


def adjacent(classes: int, k: int, device: torch.device) -> Int[Tensor, " g"]:
    """The labels 0, 1, 2, ... of some classes, each k times."""
    make = _adjacent.__wrapped__ if torch.compiler.is_compiling() else _adjacent  # type: ignore[attr-defined]
    found: Tensor = make(classes, k, device)[0]
    return found


def everyone(labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The rows of a batch with these labels, 0 to b - 1."""
    given = len(labels), labels.device
    return torch.arange(given[0], device=given[1]) if torch.compiler.is_compiling() else _everyone(*given)[0]


def taken(tensor: Tensor, index: Int[Tensor, " k"]) -> Tensor:
    """Some entries of a 1-D tensor, remembered where the tensor and the index are."""
    numbers, at = numbers_of(tensor), numbers_of(index)
    found: Tensor = tensor[index]
    if numbers is not None and at is not None:
        remember(found, [numbers[i] for i in at])
    return found


def _rows_of_others(labels: Int[Tensor, " b"], label: int) -> Int[Tensor, " k"]:
    """The rows with another label."""
    numbers = numbers_of(labels)
    if numbers is None:
        found: Tensor = rows_where(labels != label)
        return found
    return sent([row for row, other in enumerate(numbers) if other != label], labels.device)


def _unmarked(mask: Bool[Tensor, " b"]) -> Int[Tensor, " k"]:
    """The rows at which a mask is False."""
    numbers = numbers_of(mask)
    return (
        rows_where(~mask) if numbers is None else sent([i for i, mark in enumerate(numbers) if not mark], mask.device)
    )


@dataclass(frozen=True)
class Inputs:
    """The checked arguments of a call, on one device, with labels as int64."""

    embeddings: Float[Tensor, "b d"]
    labels: Int[Tensor, " b"]
    rows: Int[Tensor, " a"] | None = None  # the anchors; None: all rows that are not from a memory
    from_memory: Bool[Tensor, " b"] | None = None
    reference: Float[Tensor, "g d"] | None = None
    reference_labels: Int[Tensor, " g"] | None = None
    chosen: ChosenPairs | None = None  # None: all pairs
    proxies: int | None = None  # the reference: this many proxies of each class 0, 1, ...; 0: some of them are left out
    unit: bool = False  # all rows are known to be of norm 1

    @classmethod
    @validates
    def checked(
        cls,
        embeddings: Float[Tensor, "b d"],
        labels: Labels | None,
        rows: Int[Tensor, " a"] | None = None,
        from_memory: Bool[Tensor, " b"] | None = None,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
        indices_tuple: IndicesTuple | None = None,
    ) -> Inputs:
        """Checks the arguments of a call.

        Raises:
            InvalidInput, InvalidType: if a shape, a type, a label or a row does not fit; the error names the argument.
        """
        embeddings, labels = as_numbered_batch(embeddings, labels)
        if from_memory is not None:
            from_memory = as_memory_mask(from_memory, embeddings)
        if rows is not None:
            rows = as_rows(rows, from_memory, len(labels), labels.device)
        if reference is not None or reference_labels is not None:
            reference, reference_labels = as_reference(reference, reference_labels, embeddings)
        chosen = None if indices_tuple is None else ChosenPairs.of(indices_tuple, labels.device)
        return cls(embeddings, labels, rows, from_memory, reference, reference_labels, chosen)

    @property
    def values(self) -> tuple[int, ...] | None:
        """The labels as numbers, where they are known."""
        return numbers_of(self.labels)

    def without(self, label: int) -> Inputs:
        """The arguments without the rows of one label. Row indices are renumbered to match."""
        kept, keep, others = _rows_of_others(self.labels, label), self.labels != label, self.labels != label
        rows, chosen, reference, of_reference = self.rows, self.chosen, self.reference, self.reference_labels
        if rows is not None:
            rows = taken(keep.cumsum(0) - 1, taken(rows, _rows_of_others(taken(self.labels, rows), label)))
        if reference is not None and of_reference is not None:
            others = of_reference != label
            left = _rows_of_others(of_reference, label)
            reference, of_reference = reference[left], taken(of_reference, left)
        if chosen is not None:
            chosen = chosen.without(~keep, ~others)
        from_memory = None if self.from_memory is None else taken(self.from_memory, kept)
        return Inputs(
            self.embeddings[kept],
            taken(self.labels, kept),
            rows,
            from_memory,
            reference,
            of_reference,
            chosen,
            proxies=None if self.proxies is None else 0,
        )

    def prepared(self, normalize: bool, *, check: bool) -> Inputs:
        """The arguments with prepared embeddings and reference; see the function `prepared`."""
        reference, unit = self.reference, True
        if reference is not None:
            reference, unit = prepared(reference, normalize, check=check, name="reference")
        embeddings, units = prepared(self.embeddings, normalize, check=check)
        return replace(self, embeddings=embeddings, reference=reference, unit=units and unit)


@dataclass(frozen=True)
class Batch:
    """Anchors and a gallery, which holds their positives and negatives: the batch itself or a reference."""

    embeddings: Float[Tensor, "b d"]
    labels: Int[Tensor, " b"]
    anchors: Int[Tensor, " a"]
    from_memory: Bool[Tensor, " b"] | None
    gallery: Float[Tensor, "g d"]
    gallery_labels: Int[Tensor, " g"]
    has_reference: bool
    every_row: bool  # all rows are anchors, in order
    proxies: Literal["anchors", "gallery"] | None = None  # the side that holds proxies; no points lie between these
    chosen: ChosenPairs | None = None  # the pairs that the caller chose; None: all pairs
    per_class: int = 0  # how many proxies there are of each class 0, 1, ...; 0: none, or some are left out
    unit: bool = False  # as in `Inputs`
    heights: tuple[Tensor, Tensor] | None = None  # for balance="sphere": the rows' and the gallery's products with u
    keeps_product: bool = False  # compute `product` once for two tables
    check: bool = False  # look at the rows on a GPU as well, which waits

    @classmethod
    def prepared(cls, inputs: Inputs, *, normalize: bool, check: bool) -> Batch:
        """Makes a batch of checked arguments, after preparing their rows."""
        return replace(cls.of(inputs.prepared(normalize, check=check)), check=check)

    @classmethod
    def of(cls, inputs: Inputs) -> Batch:
        """Makes a batch of checked arguments, with half precision converted to float32."""
        embeddings, reference, from_memory = widened(inputs.embeddings), inputs.reference, inputs.from_memory
        if from_memory is not None and not torch.compiler.is_compiling() and not any(read(from_memory)):
            from_memory = None
        gallery, gallery_labels = embeddings, inputs.labels
        if reference is not None and inputs.reference_labels is not None:
            gallery, gallery_labels = widened(reference).to(embeddings.dtype), inputs.reference_labels
        anchors = inputs.rows
        if anchors is None:
            anchors = everyone(inputs.labels) if from_memory is None else _unmarked(from_memory)
        return cls(
            embeddings,
            inputs.labels,
            anchors,
            from_memory,
            gallery,
            gallery_labels,
            has_reference=reference is not None,
            every_row=inputs.rows is None and from_memory is None,
            proxies=None if inputs.proxies is None else "gallery",
            per_class=inputs.proxies or 0,
            chosen=inputs.chosen,
            unit=inputs.unit,
        )

    def swapped(self) -> Batch:
        """The batch whose anchors are all proxies of the reference, and whose gallery is this batch."""
        anchors = everyone(self.gallery_labels)
        sides = (self.gallery, self.gallery_labels, anchors, None, self.embeddings, self.labels)
        known: dict[str, Any] = {"per_class": self.per_class, "unit": self.unit}
        return Batch(*sides, has_reference=True, every_row=True, proxies="anchors", **known)

    @property
    def anchor_labels(self) -> Int[Tensor, " a"]:
        """The label of each anchor."""
        return self.labels[self.anchors]

    @property
    def is_empty(self) -> bool:
        """Whether there is no anchor."""
        return not torch.compiler.is_compiling() and self.anchors.shape[0] == 0

    @property
    def detached(self) -> Batch:
        """This batch without gradient. What has been computed of it is not computed again."""
        rows = self.embeddings.detach()
        found = replace(self, embeddings=rows, gallery=self.gallery.detach() if self.has_reference else rows)
        known = {name: value for name, value in self.__dict__.items() if name not in found.__dict__}
        found.__dict__.update(known)
        return found

    @cached_property
    def product(self) -> Float[Tensor, "b g"]:
        """The inner products of the rows with the gallery, without gradient."""
        with torch.no_grad(), torch.autocast(self.embeddings.device.type, enabled=False):
            return self.embeddings @ self.gallery.T

    @property
    def values(self) -> tuple[int, ...] | None:
        """The labels of the gallery as numbers, where they are known."""
        return numbers_of(self.gallery_labels)

    @property
    def plain(self) -> PlainLayout | None:
        """What follows from known labels where all rows are compared with each other; otherwise None."""
        return None if torch.compiler.is_compiling() else self._plain

    @cached_property
    def _plain(self) -> PlainLayout | None:
        if not self.every_row or self.has_reference or self.values is None:
            return None
        return plain_layout(self.values, self.labels.device)

    @cached_property
    def classes(self) -> Classes:
        """The classes of the gallery."""
        return self._group(self.gallery_labels, proxies="gallery")

    @cached_property
    def own_classes(self) -> Classes:
        """The classes of the batch itself, whose rows are the anchors."""
        return self._group(self.labels, proxies="anchors") if self.has_reference else self.classes

    def _group(self, labels: Int[Tensor, " k"], *, proxies: str) -> Classes:
        """Groups one side, without a wait where it holds proxies, or its labels are known as numbers."""
        values = numbers_of(labels)
        if self.proxies == proxies and self.per_class:
            return group_adjacent(labels, self.per_class)
        return group(labels) if values is None else group_values(values, labels.device)

    @cached_property
    def of_anchor(self) -> Int[Tensor, " a"]:
        """The class of each anchor among the classes of the gallery; -1 if the gallery lacks the class."""
        if not self.has_reference:
            return self.classes.of_row[self.anchors]
        return self.classes.find(self.labels[self.anchors])

    def why_degenerate(self) -> str | None:
        """Why the batch is degenerate, or None if it is not.

        The sentences are constant, so that Python's default filter shows each only once in a long run.
        """
        if len(self.labels) == 0 or (self.from_memory is not None and all(read(self.from_memory))):
            return "the batch has no anchor, so the loss is 0"
        if self.proxies is not None:
            return None
        if self.has_reference:
            if set(read(self.labels)).isdisjoint(read(self.gallery_labels)):
                return "no class of the batch is in the reference, so there is no positive pair"
            return None
        classes = len(self.classes.size) if self.values is None else len(set(self.values))
        if classes == len(self.labels):
            return "no class of the batch has two images, so there is no positive pair and nothing is pulled together"
        if classes == 1:
            return "the batch is of one class, so there is no negative pair and nothing is pushed apart"
        return None

    @cached_property
    def pattern(self) -> Pattern | None:
        """What positives, partners and the plan of the search follow from; None where the numbers are not known."""
        labels = numbers_of(self.labels)
        gallery = numbers_of(self.gallery_labels) if self.has_reference else ()
        anchors = () if self.every_row else numbers_of(self.anchors)
        marks = () if self.from_memory is None else numbers_of(self.from_memory)
        if labels is None or gallery is None or anchors is None or marks is None:
            return None
        if not self.per_class:  # otherwise labels number the proxies
            order = sorted({*labels, *gallery})
            labels, gallery = numbered(labels, order), numbered(gallery, order)
        sides = labels, gallery if self.has_reference else None, None if self.every_row else anchors
        return Pattern(*sides, None if self.from_memory is None else marks, self.proxies, self.per_class)

    def positives(self) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The gallery rows of each anchor's positives, and a mask of the slots that are used."""
        if torch.compiler.is_compiling():
            anchors = None if self.has_reference else self.anchors
            index, mask = positives(self.gallery_labels, self.labels[self.anchors], anchors)
            return index, mask
        if self.plain is not None:
            return self.plain.positive, self.plain.positive_mask
        if self.proxies == "gallery" and self.per_class:
            labels = self.labels if self.every_row else self.anchor_labels
            slots = torch.arange(self.per_class, device=labels.device)
            index = torch.add(slots, labels[:, None], alpha=self.per_class)
            return index, torch.ones_like(index, dtype=torch.bool)
        if self.pattern is not None:
            return self.pattern.table(self.labels.device)[:2]
        return self.found_positives()

    def found_positives(self) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """`positives` from the tensors of labels and anchors; waits for a GPU where they lie there."""
        of_all = self.proxies == "anchors" or (self.every_row and not self.has_reference)
        anchors = None if self.has_reference else self.anchors
        return self.classes.positives(self.of_anchor, anchors, of_all=of_all)

    def partners(
        self, index: Int[Tensor, "a p"], mask: Bool[Tensor, "a p"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "a p"]]:
        """The positives that are not anchors, each once, and the row of the table that belongs to each positive.

        The first rows of the table belong to the anchors, the following ones to the positives that are not anchors.
        """
        if self.plain is not None:
            return index.new_empty(0), index
        if not torch.compiler.is_compiling() and self.pattern is not None:
            return self.pattern.table(self.labels.device)[2:]
        return self.found_partners(index, mask)

    def found_partners(
        self, index: Int[Tensor, "a p"], mask: Bool[Tensor, "a p"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "a p"]]:
        """`partners` from tensors; waits for a GPU where they lie there."""
        anchors = None if self.has_reference else self.anchors
        missing, row = partners(index, mask, anchors, self.anchors.shape[0], self.gallery_labels.shape[0])
        return missing, row


class Pattern(NamedTuple):
    """The labels of a batch, their order only, and its anchors, as numbers: what the tables are laid out by."""

    labels: Numbers
    gallery: Numbers | None  # None: the batch itself
    anchors: Numbers | None  # None: all rows
    from_memory: Numbers | None
    proxies: Literal["anchors", "gallery"] | None
    per_class: int

    @property
    def entries(self) -> int:
        """The entries of its plain table, by which it is decided whether to keep what follows from it."""
        anchors = self.labels if self.anchors is None else self.anchors
        return len(anchors) * len(self.labels if self.gallery is None else self.gallery)

    def batch(self) -> Batch:
        """A batch of this pattern on the CPU, of rows without dimensions."""
        cpu = torch.device("cpu")
        labels = sent(self.labels, cpu)
        gallery_labels = labels if self.gallery is None else sent(self.gallery, cpu)
        anchors = everyone(labels) if self.anchors is None else sent(self.anchors, cpu)
        marks = None if self.from_memory is None else torch.tensor(self.from_memory, dtype=torch.bool)
        rows, gallery = torch.empty(len(labels), 0), torch.empty(len(gallery_labels), 0)
        sides = rows, labels, anchors, marks, rows if self.gallery is None else gallery, gallery_labels
        known: dict[str, Any] = {"has_reference": self.gallery is not None, "every_row": self.anchors is None}
        return Batch(*sides, **known, proxies=self.proxies, per_class=self.per_class)

    def table(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The results of `Batch.positives` and of `Batch.partners`."""
        make = _table if self.entries <= largest_kept(device) else _table.__wrapped__  # type: ignore[attr-defined]
        found: tuple[Tensor, Tensor, Tensor, Tensor] = make(self, device)
        return found


@kept
def _table(pattern: Pattern, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with on_cpu():
        batch = pattern.batch()
        index, mask = batch.found_positives()
        missing, row = batch.found_partners(index, mask)
        missing = remember(missing, missing.tolist())
    return moved((index, mask, missing, row), device)


def widened(embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Converts half precision to float32, because its rounding exceeds the differences between the hardest pairs."""
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def prepared(
    embeddings: Float[Tensor, "b d"], normalize: bool, *, check: bool, name: str = "embeddings"
) -> tuple[Float[Tensor, "b d"], bool]:
    """The embeddings, L2-normalised in float32 or better if `normalize` is set, and whether all are known as unit rows.

    The norms are looked at on the CPU, and with `check` on a GPU. A row of zeros stays one.

    Raises:
        InvalidInput: if a value that is looked at is NaN, infinite or too large.
    """
    look = (check or embeddings.device.type == "cpu") and not torch.compiler.is_compiling()
    if not normalize:
        if look:
            check_finite(embeddings, name)
        return embeddings, False
    # The gradient of a zero row is scaled by 1/eps, which must not overflow in half precision.
    eps = 1e-3 if embeddings.dtype == torch.float16 else 1e-12
    rows = widened(embeddings)
    norm = torch.linalg.vector_norm(rows.detach(), dim=1, keepdim=True)
    positive = False
    if look and norm.shape[0] and type(norm) is Tensor:  # not in `FakeTensorMode`, where there are no values
        least, most = (bound.item() for bound in torch.aminmax(norm))
        if not most <= LARGEST:
            check_finite(embeddings, name)  # small norms imply small values, and there are fewer norms to look at
        positive = least > eps
    unit: Tensor = _Normalized.apply(rows, norm, eps, positive)
    return unit, positive


class _Normalized(torch.autograd.Function):
    """Rows divided by max(norm, eps), as `functional.normalize`, with a cheaper backward pass.

    `positive` says that all norms are above eps.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, norm: Tensor, eps: float, positive: bool) -> Tensor:
        norm = norm if positive else norm.clamp(min=eps)
        unit: Tensor = rows / norm
        ctx.save_for_backward(unit, norm, rows)
        ctx.eps, ctx.positive = eps, positive
        return unit

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        unit, norm, rows = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a second derivative: the saved norm is detached
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=ctx.eps)
        along = (gradient * unit).sum(dim=1, keepdim=True)
        if not ctx.positive:
            along = along.masked_fill(norm <= ctx.eps, 0)  # there the division is linear
        return torch.addcmul(gradient, unit, along, value=-1).div_(norm), None, None, None
