"""Tests a loss of another library on a small batch, to find out whether and how it reads an expanded table."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.mining import Expansion, expand_batch
from embedding_expansion.core.pairs import Pairs, compare_batch
from embedding_expansion.errors import InvalidInput
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

CLASSES = ((3, 1, 2), (3, 3, 3), (3, 2))  # class sizes of the batches to try, until the loss accepts one
TOLERANCE = 1e-4  # relative tolerance of equal values in float32


def probe(theirs: Any, scale: Scale) -> tuple[Form, bool]:
    """Finds the form in which a loss reads an expanded table, and whether it takes (i, k) and (k, i) for one pair.

    The loss must return the same value with its usual table as by itself. It must read only the given pairs, selected
    by an indices tuple or by setting all others far away. An expanded table must change its value. The test works on
    copies, and restores random generators and warnings.

    Args:
        theirs: the loss.
        scale: the scale of its distance.

    Raises:
        InvalidInput: if the loss fails a test; the error names the loss.
    """
    if holds_a_graph(theirs):
        raise InvalidInput(
            f"{type(theirs).__name__} cannot be expanded: it has been called before and holds tensors of that graph; "
            "pass a fresh instance"
        )
    tensors = itertools.chain(theirs.parameters(), theirs.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = ""
        for sizes in CLASSES:
            trial = Trial(theirs, scale, sizes, like)
            value = trial.value()
            if value is not None:
                return trial.verdict(value)
            reason = reason or trial.reason
    raise InvalidInput(
        f"{type(theirs).__name__} cannot be expanded: on a small batch of {CLASSES[0]} images per class it {reason}"
    )


class Trial:
    """A small batch, its plain and expanded tables, and the values of the loss on them."""

    def __init__(self, theirs: Any, scale: Scale, sizes: tuple[int, ...], like: Tensor) -> None:
        self.theirs, self.scale, self.reason = theirs, scale, ""
        labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        generator = torch.Generator().manual_seed(0)
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        # With few dimensions and no clusters, every hinge is active for some pairs.
        points = torch.randn(len(labels), 4, generator=generator).to(like.device, dtype)
        self.batch = Batch.of(Inputs(points, labels.to(like.device)))
        rows = normalized_for(theirs.distance, self.batch)
        plain = compare_batch(rows, scale.metric, partners=False)
        self.plain = scale(plain.negative)
        expansion = Expansion(2, "class_pair", True, scale.metric, None)
        self.expanded = expand_batch(rows, expansion, partners=False)
        self.square = square_table(self.expanded, rows, scale)

    def value(self, table: Tensor | None = None, chosen: Indices | None = None) -> Tensor | None:
        """The value of the loss, by itself or for a table; None if it fails, with the reason in `reason`."""
        self.seed()
        given = self.batch.embeddings.clone(), self.batch.labels.clone(), chosen
        try:
            loss: Any = copy.deepcopy(self.theirs)  # some losses change with every call
            if table is None:
                value = loss(*given)
            else:
                with reading(loss, given[0], table) as distance:
                    value = loss(*given)
                if distance.calls == 0:
                    self.reason = "does not call its distance"
                    return None
        except Exception as error:  # the loss may fail in any way
            self.reason = f"fails with {type(error).__name__}: {' '.join(str(error).split())}"
            return None
        if not isinstance(value, Tensor) or value.numel() != 1:
            self.reason = f"returns a {type(value).__name__} and not a scalar; use another reducer"
            return None
        if not bool(value.isfinite().all()):
            self.reason = "does not return a finite number"
            return None
        return value.double().reshape(())

    def seed(self) -> None:
        """Seeds the generators that `probe` restores, so that every value uses the same random numbers."""
        torch.default_generator.manual_seed(0)
        device = self.batch.labels.device
        if device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(0)

    def verdict(self, value: Tensor) -> tuple[Form, bool]:
        """Returns the form in which the loss takes a table and whether it crosses pairs, or raises InvalidInput."""
        self.check_distance()
        again = self.value(self.plain)
        if again is None or not same(again, value):
            raise self.refusal(self.reason or "returns another value for the table of its distance than by itself")
        form = self.form()
        plain, expanded = self.selected(self.plain, form), self.selected(self.square, form)
        if expanded is None or (plain is not None and same(plain, expanded)):
            raise self.refusal(self.reason or "returns the same value for an expanded table as for a plain one")
        return form, form != "table" and self.crosses(form)

    def check_distance(self) -> None:
        """Raises InvalidInput if the distance of the loss disagrees with the plain table of this package."""
        original = copy.deepcopy(self.theirs.distance)
        table = original(self.batch.embeddings, self.batch.embeddings)
        # Leave out the distance of a row to itself, which is rounding.
        different = ~torch.eye(len(table), dtype=torch.bool, device=table.device)
        if not torch.allclose(table[different], self.plain[different], rtol=TOLERANCE, atol=TOLERANCE):
            raise self.refusal(
                f"has a {type(original).__name__}, which does not follow from inner products as its base class does"
            )

    def form(self) -> Form:
        """The form in which the loss takes the pairs that it has to read."""
        # Leave out one pair of classes: a loss that uses indices then does not read its entries of the table.
        classes, mask = self.batch.classes.of_row, self.expanded.negative_mask.clone()
        barred = classes[:, None] + classes == 1  # between classes 0 and 1
        mask[classes == 0, 1] = mask[classes == 1, 0] = False
        fewer = replace(self.expanded, negative_mask=mask)
        changed = torch.where(barred, 0.5 * self.plain + 0.1, self.plain)
        if self.agree(lambda table: self.value(table, indices(fewer, self.batch, "pairs")), self.plain, changed):
            # Losses on triplets and losses on pairs differ for anchors with positives only or with negatives only.
            mask = self.expanded.negative_mask.clone()
            mask[0] = False
            fewer = replace(self.expanded, negative_mask=mask)
            return "triplets" if self.as_triplets(fewer) else "pairs"
        self.reason = ""

        def far(scale: Tensor) -> Tensor | None:
            farness = self.scale.far * float(scale)
            return self.value(alone(self.plain, self.expanded.negative_mask, self.batch, farness))

        if self.agree(far, torch.tensor(1.0), torch.tensor(2.0)):
            return "table"
        raise self.refusal(self.reason or "reads pairs other than the given ones")

    def selected(self, table: Tensor, form: Form) -> Tensor | None:
        """The value of the loss for a table, with one negative for each row and other class."""
        if form == "table":
            return self.value(alone(table, self.expanded.negative_mask, self.batch, self.scale.far))
        return self.value(table, indices(self.expanded, self.batch, form))

    def as_triplets(self, pairs: Pairs) -> bool:
        """Whether the loss has the same value for triplets as for the pairs that they consist of."""
        both = [indices(pairs, self.batch, form) for form in ("pairs", "triplets")]
        for table in (self.plain, 0.5 * self.plain + 0.1):  # in the second table more hinges of negatives are active
            values = [self.value(table, chosen) for chosen in both]
            if values[0] is None or values[1] is None or not same(values[0], values[1]):
                return False
        return True

    def crosses(self, form: Form) -> bool:
        """Whether the value depends on the row that represents a class, in a table whose rows differ."""
        classes = self.batch.classes
        one_a_class = self.plain[:, classes.order[classes.start]][:, classes.of_row]
        table = torch.where(classes.of_row[:, None] == classes.of_row, self.plain, one_a_class)
        first, second = (self.value(table, indices(self.expanded, self.batch, form, shift)) for shift in (0, 1))
        return first is None or second is None or not same(first, second)

    def agree(self, value: Callable[[Tensor], Tensor | None], first: Tensor, second: Tensor) -> bool:
        """Whether two tables give the same value."""
        one, other = value(first), value(second)
        return one is not None and other is not None and same(one, other)

    def refusal(self, reason: str) -> InvalidInput:
        """Makes the error for a loss that cannot be expanded."""
        return InvalidInput(f"{type(self.theirs).__name__} cannot be expanded: it {reason}")


def holds_a_graph(loss: Any) -> bool:
    """Whether a loss holds a tensor with a graph as an attribute. Such a tensor cannot be copied."""
    kept = (value for part in loss.modules() for value in vars(part).values())
    return any(isinstance(value, Tensor) and not value.is_leaf for value in kept)


def same(value: Tensor, other: Tensor) -> bool:
    """Whether two values are equal up to rounding."""
    return bool((value - other).abs() <= TOLERANCE * other.abs() + 1e-6)
