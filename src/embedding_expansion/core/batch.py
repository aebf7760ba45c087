"""The checked arguments of a loss, the batch that its table is made from, and what follows from its labels.

Batches of a training run repeat few patterns: which rows are of one class. What follows from a pattern is kept for the
next batch that has it. The key is the whole pattern, so that it cannot be mistaken for another.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

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

R = TypeVar("R")
LAYOUTS = 4  # patterns to keep
LARGEST_KEPT = 1 << 20  # entries of a table beyond which nothing is kept: at most 10 MB for a layout, of two classes


class HostLabels(NamedTuple):
    """The labels of a batch as plain numbers, beside the tensor that holds them."""

    tensor: Int[Tensor, " b"]
    values: tuple[int, ...]

    def of(self, labels: Int[Tensor, " b"]) -> tuple[int, ...] | None:
        """The numbers, if they are those of this very tensor."""
        return self.values if labels is self.tensor else None


def numbered(values: Sequence[int], order: Iterable[int]) -> tuple[int, ...]:
    """The place of every value in `order`, where each occurs once or more often."""
    place = {value: number for number, value in enumerate(dict.fromkeys(order))}
    return tuple(map(place.__getitem__, values))


def kept(function: Callable[..., R]) -> Callable[..., R]:
    """Keeps the last few results of a function of numbers and a device, where there are values to keep.

    A tuple of tensors of which somebody has changed one in place is made again.
    """

    @functools.lru_cache(maxsize=LAYOUTS)
    def versioned(*given: Any) -> tuple[R, list[int]]:
        with torch.inference_mode(False):  # an inference tensor would be of no use to autograd
            found = function(*given)
        return found, _versions(found)

    @functools.wraps(function)
    def call(*given: Any) -> R:
        # Nothing is kept of tensors without values, in `FakeTensorMode`, nor of those that a CUDA graph captures.
        captured = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        if captured or type(torch.empty(0)) is not Tensor:
            return function(*given)
        found, versions = versioned(*given)
        if _versions(found) != versions:
            versioned.cache_clear()
            found, _ = versioned(*given)
        return found

    return call


def _versions(found: Any) -> list[int]:
    """How often each tensor has been changed in place; of a dataclass, its own tensors."""
    tensors = found if isinstance(found, tuple) else vars(found).values()
    return [tensor._version for tensor in tensors if isinstance(tensor, Tensor)]


def group_values(values: tuple[int, ...], device: torch.device) -> Classes:
    """`group` for labels that are known as numbers: without an operation whose result depends on data."""
    label = sorted(set(values))
    of_row = numbered(values, label)
    numbers = torch.tensor(label, dtype=torch.int64, device=device)
    return Classes(numbers, *_rows_of_classes(of_row, device), runs_of_pattern(of_row))


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
    found = (torch.tensor(numbers, dtype=torch.int64, device=device) for numbers in (of_row, order, start, size))
    return tuple(found)  # type: ignore[return-value]


class PlainLayout(NamedTuple):
    """The slots of positives and the mask of negatives where all rows are compared with each other."""

    positive: Int[Tensor, "b p"]
    positive_mask: Bool[Tensor, "b p"]
    negative_mask: Bool[Tensor, "b b"]


def plain_layout(values: tuple[int, ...], device: torch.device) -> PlainLayout:
    """The layout of a batch with these labels. Only the pattern counts: which of the labels are equal."""
    make = _plain_layout if len(values) ** 2 <= LARGEST_KEPT else _plain_layout.__wrapped__  # type: ignore[attr-defined]
    found: PlainLayout = make(numbered(values, values), device)
    return found


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
    return (torch.arange(count, device=device),)


@kept
def _adjacent(classes: int, k: int, device: torch.device) -> tuple[Int[Tensor, " g"]]:
    return (torch.arange(classes, device=device).repeat_interleave(k),)


def adjacent(classes: int, k: int, device: torch.device) -> Int[Tensor, " g"]:
    """The labels 0, 1, 2, ... of some classes, each k times."""
    make = _adjacent.__wrapped__ if torch.compiler.is_compiling() else _adjacent  # type: ignore[attr-defined]
    found: Tensor = make(classes, k, device)[0]
    return found


def everyone(labels: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The rows of a batch with these labels, 0 to b - 1."""
    given = len(labels), labels.device
    return torch.arange(given[0], device=given[1]) if torch.compiler.is_compiling() else _everyone(*given)[0]


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
    on_host: HostLabels | None = None  # `labels` as numbers; of no effect once `labels` is another tensor
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
        embeddings, labels, values = as_numbered_batch(embeddings, labels)
        on_host = None if values is None else HostLabels(labels, values)
        if from_memory is not None:
            from_memory = as_memory_mask(from_memory, embeddings)
        if rows is not None:
            rows = as_rows(rows, from_memory, len(labels), labels.device)
        if reference is not None or reference_labels is not None:
            reference, reference_labels = as_reference(reference, reference_labels, embeddings)
        chosen = None if indices_tuple is None else ChosenPairs.of(indices_tuple, labels.device)
        return cls(embeddings, labels, rows, from_memory, reference, reference_labels, chosen, on_host)

    @property
    def values(self) -> tuple[int, ...] | None:
        """The labels as numbers, where they are known."""
        return None if self.on_host is None else self.on_host.of(self.labels)

    def without(self, label: int) -> Inputs:
        """The arguments without the rows of one label. Row indices are renumbered to match."""
        keep = others = self.labels != label
        rows, chosen, reference, of_reference = self.rows, self.chosen, self.reference, self.reference_labels
        if rows is not None:
            rows = (keep.cumsum(0) - 1)[rows[rows_where(keep[rows])]]
        if reference is not None and of_reference is not None:
            others = of_reference != label
            left = rows_where(others)
            reference, of_reference = reference[left], of_reference[left]
        if chosen is not None:
            chosen = chosen.without(~keep, ~others)
        kept = rows_where(keep)
        from_memory = None if self.from_memory is None else self.from_memory[kept]
        return Inputs(
            self.embeddings[kept],
            self.labels[kept],
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
    on_host: HostLabels | None = None  # as in `Inputs`
    unit: bool = False  # as in `Inputs`
    heights: tuple[Tensor, Tensor] | None = None  # for balance="sphere": the rows' and the gallery's products with u
    keeps_product: bool = False  # compute `product` once for two tables

    @classmethod
    def prepared(cls, inputs: Inputs, *, normalize: bool, check: bool) -> Batch:
        """Makes a batch of checked arguments, after preparing their rows."""
        return cls.of(inputs.prepared(normalize, check=check))

    @classmethod
    def of(cls, inputs: Inputs) -> Batch:
        """Makes a batch of checked arguments, with half precision converted to float32."""
        embeddings, reference, from_memory = widened(inputs.embeddings), inputs.reference, inputs.from_memory
        if from_memory is not None and not torch.compiler.is_compiling() and not bool(from_memory.any()):
            from_memory = None
        gallery, gallery_labels = embeddings, inputs.labels
        if reference is not None and inputs.reference_labels is not None:
            gallery, gallery_labels = widened(reference).to(embeddings.dtype), inputs.reference_labels
        anchors = inputs.rows
        if anchors is None:
            anchors = everyone(inputs.labels) if from_memory is None else rows_where(~from_memory)
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
            on_host=inputs.on_host,
            unit=inputs.unit,
        )

    def swapped(self) -> Batch:
        """The batch whose anchors are all proxies of the reference, and whose gallery is this batch."""
        anchors = everyone(self.gallery_labels)
        sides = (self.gallery, self.gallery_labels, anchors, None, self.embeddings, self.labels)
        known: dict[str, Any] = {"per_class": self.per_class, "on_host": self.on_host, "unit": self.unit}
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
        host = self.on_host
        return host.values if host is not None and host.tensor is self.gallery_labels else None

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
        values = None if self.on_host is None else self.on_host.of(labels)
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
        if len(self.labels) == 0 or (self.from_memory is not None and bool(self.from_memory.all())):
            return "the batch has no anchor, so the loss is 0"
        if self.proxies is not None:
            return None
        if self.has_reference:
            if not bool(torch.isin(self.labels, self.gallery_labels).any()):
                return "no class of the batch is in the reference, so there is no positive pair"
            return None
        classes = len(self.classes.size) if self.values is None else len(set(self.values))
        if classes == len(self.labels):
            return "no class of the batch has two images, so there is no positive pair and nothing is pulled together"
        if classes == 1:
            return "the batch is of one class, so there is no negative pair and nothing is pushed apart"
        return None

    def positives(self) -> tuple[Int[Tensor, "a p"], Bool[Tensor, "a p"]]:
        """The gallery rows of each anchor's positives, and a mask of the slots that are used."""
        anchors = None if self.has_reference else self.anchors
        if torch.compiler.is_compiling():
            index, mask = positives(self.gallery_labels, self.labels[self.anchors], anchors)
            return index, mask
        if self.plain is not None:
            return self.plain.positive, self.plain.positive_mask
        if self.proxies == "gallery" and self.per_class:
            labels = self.labels if self.every_row else self.anchor_labels
            slots = torch.arange(self.per_class, device=labels.device)
            index = torch.add(slots, labels[:, None], alpha=self.per_class)
            return index, torch.ones_like(index, dtype=torch.bool)
        of_all = self.proxies == "anchors" or (self.every_row and not self.has_reference)
        return self.classes.positives(self.of_anchor, anchors, of_all=of_all)

    def partners(
        self, index: Int[Tensor, "a p"], mask: Bool[Tensor, "a p"]
    ) -> tuple[Int[Tensor, " m"], Int[Tensor, "a p"]]:
        """The positives that are not anchors, each once, and the row of the table that belongs to each positive.

        The first rows of the table belong to the anchors, the following ones to the positives that are not anchors.
        """
        if self.plain is not None:
            return index.new_empty(0), index
        anchors = None if self.has_reference else self.anchors
        missing, row = partners(index, mask, anchors, self.anchors.shape[0], self.gallery_labels.shape[0])
        return missing, row


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
