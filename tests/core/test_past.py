"""Rows that come from a memory: never anchors, but positives, negatives and ends of segments, and not detached."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core import losses
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pairs import Pairs, compare
from embedding_expansion.errors import InvalidInput

from . import oracles
from .batches import batch, batch_for
from .test_losses import assert_same_terms
from .test_pairs import assert_same_table

every_case = pytest.mark.parametrize(("name", "scope"), oracles.CASES)
SCOPES = ["class_pair", "anchor", "negative"]


def with_memory(scope: str | None, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A batch some of whose rows, in between the others, are past; in anchor scope one pair is half past."""
    E, labels = batch_for(scope, seed)
    past = torch.zeros(len(labels), dtype=torch.bool)
    past[[1, 2, 3, 6]] = True
    return E.requires_grad_(), labels, past


@pytest.mark.parametrize("metric", ["euclidean", "inner"])
@pytest.mark.parametrize("seed", range(3))
def test_past_rows_are_positives_and_negatives_but_no_anchors(seed: int, metric: str) -> None:
    E, labels, past = with_memory(None, seed)
    pairs = compare(E, labels, metric=metric, from_memory=past)
    table = oracles.plain_table(E, labels.tolist(), metric, from_memory=past.tolist())
    assert len(pairs.positive) == int((~past).sum())
    assert pairs.negative.shape[1] == len(E)
    assert_same_table(pairs, table, E)


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("seed", range(3))
def test_on_the_anchors_side_at_least_one_end_is_not_past(scope: str, n: int, seed: int) -> None:
    E, labels, past = with_memory(scope, seed)
    table = oracles.expanded_table(E, labels.tolist(), n, scope, from_memory=past.tolist())
    assert_same_table(expand(E, labels, n, scope=scope, from_memory=past), table, E)


def test_a_segment_between_past_rows_counts_on_the_other_side_only() -> None:
    """Class 0 has one current row far away; its two past rows have the point nearest to class 1 between them."""
    E = torch.tensor([[1, 1, 0.2], [1, -1, 0.2], [-1, 0.3, 0.1], [1, 0, 1]], dtype=torch.float64)
    E = E / E.norm(dim=1, keepdim=True)
    labels, past = [0, 0, 0, 1], torch.tensor([True, True, False, False])
    pairs = expand(E, labels, 1, from_memory=past)
    middle = (E[0] + E[1]) / (E[0] + E[1]).norm()
    ours, theirs = pairs.negative  # the anchors are rows 2 and 3
    torch.testing.assert_close(theirs[0], 1 - ((E[3] - middle) ** 2).sum() / 2)
    assert ours[1] < theirs[0]


@every_case
def test_losses_with_a_memory_equal_their_formulas(name: str, scope: str | None) -> None:
    E, labels, past = with_memory(scope, 4)
    metric = oracles.METRICS[name]
    if scope is None:
        pairs = compare(E, labels, metric=metric, from_memory=past)
        table = oracles.plain_table(E, labels.tolist(), metric, from_memory=past.tolist())
    else:
        pairs = expand(E, labels, 2, scope=scope, metric=metric, from_memory=past)
        table = oracles.expanded_table(E, labels.tolist(), 2, scope, metric=metric, from_memory=past.tolist())
    assert_same_terms(getattr(losses, name)(pairs), oracles.ORACLES[name](table), E)


@every_case
def test_past_rows_are_not_detached(name: str, scope: str | None) -> None:
    E, labels, past = with_memory(scope, 2)
    loss = LOSSES[name](margin=4.0) if "margin" in LOSSES[name]().__dict__ else LOSSES[name]()
    if scope is not None:
        loss = EmbeddingExpansion(loss, n=2, scope=scope)
    loss(E, labels, from_memory=past).backward()
    assert E.grad[past].abs().max() > 0


@pytest.mark.parametrize("name", ["compare", "expand"])
def test_no_row_being_past_is_the_default(name: str) -> None:
    E, labels = batch((3, 2, 2))
    past = torch.zeros(len(E), dtype=torch.bool)

    def table(past: Tensor | None) -> Pairs:
        return compare(E, labels, from_memory=past) if name == "compare" else expand(E, labels, 2, from_memory=past)

    assert torch.equal(table(past).negative, table(None).negative)
    assert torch.equal(table(past).positive, table(None).positive)


def test_rows_may_pick_among_the_rows_that_are_not_past() -> None:
    E, labels, past = with_memory(None)
    rows = (~past).nonzero()[:, 0].flip(0)[:3]
    for function, oracle in (
        (compare, lambda **options: oracles.plain_table(E, labels.tolist(), **options)),
        (
            lambda *given, **options: expand(*given, 2, **options),
            lambda **options: oracles.expanded_table(E, labels.tolist(), 2, **options),
        ),
    ):
        pairs = function(E, labels, rows=rows, from_memory=past)
        assert_same_table(pairs, oracle(rows=rows.tolist(), from_memory=past.tolist()), E)


@pytest.mark.parametrize("scope", [None, *SCOPES])
def test_a_past_row_among_the_anchors_is_an_error(scope: str | None) -> None:
    E, labels, past = with_memory(scope)
    table = compare if scope is None else functools.partial(expand, n=2, scope=scope)
    with pytest.raises(InvalidInput, match="rows that come from a memory"):
        table(E, labels, rows=torch.tensor([0, 1]), from_memory=past)


def test_a_class_that_is_all_past_is_a_negative_of_the_others() -> None:
    E, labels = batch((2, 2), d=3)
    E.requires_grad_()
    past = labels == labels[0]
    pairs = expand(E, labels, 2, from_memory=past)
    assert_same_table(pairs, oracles.expanded_table(E, labels.tolist(), 2, from_memory=past.tolist()), E)
    assert len(pairs.negative) == 2


@pytest.mark.parametrize(
    "call",
    [
        compare,
        functools.partial(expand, n=1),
        functools.partial(hardest, n=1),
        LOSSES["triplet"](),
        EmbeddingExpansion(LOSSES["triplet"]()),
    ],
    ids=["compare", "expand", "hardest", "loss", "expanded"],
)
def test_the_old_name_of_the_mask_works_with_a_warning(call: Callable[..., Any]) -> None:
    E, labels, past = with_memory(None)
    with pytest.warns(DeprecationWarning, match="past is now from_memory") as found:
        old = call(E, labels, past=past)
    assert found[0].filename == __file__
    new = call(E, labels, from_memory=past)
    assert repr(old) == repr(new)
    with pytest.raises(InvalidInput, match="past and from_memory are both given"):
        call(E, labels, past=past, from_memory=past)
