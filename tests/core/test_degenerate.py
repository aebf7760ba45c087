"""Batches from which little or nothing can be learnt: what is left is computed, and one warning says why."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES
from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.errors import DegenerateBatchWarning

from . import oracles
from .batches import batch

every_loss = pytest.mark.parametrize("name", list(oracles.ORACLES))
every_case = pytest.mark.parametrize(("name", "scope"), oracles.CASES)

BATCHES: dict[str, list[int]] = {
    "empty": [],
    "one row": [3],
    "one class": [3, 3, 3, 3],
    "no positive pair": [1, 2, 3, 4],
}


def can_be_paired(labels: list[int]) -> bool:
    return len(labels) % 2 == 0 and labels[::2] == labels[1::2]


def loss_of(name: str, scope: str | None, **options: object) -> torch.nn.Module:
    loss = LOSSES[name](**options)
    return loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope)


def rows_for(labels: list[int]) -> Tensor:
    E = torch.randn(len(labels), 3, dtype=torch.float64)
    return torch.nn.functional.normalize(E, dim=1).requires_grad_()


def expected_value(name: str, scope: str | None, E: Tensor, labels: list[int]) -> Tensor:
    metric = oracles.METRICS[name]
    if not labels:
        return torch.zeros((), dtype=torch.float64)
    E = E / (E**2).sum(1, keepdim=True).sqrt()
    if scope is None:
        table = oracles.plain_table(E, labels, metric)
    else:
        table = oracles.expanded_table(E, labels, 2, scope, metric=metric)
    return oracles.mean(oracles.ORACLES[name](table))


# In anchor scope rows that are paired across classes are an error, tested with the other bad input.
@pytest.mark.parametrize(
    ("name", "scope", "labels"),
    [
        pytest.param(name, scope, labels, id=f"{name}-{scope}-{kind}")
        for kind, labels in BATCHES.items()
        for name, scope in oracles.CASES
        if scope != "anchor" or can_be_paired(labels)
    ],
)
def test_what_is_left_is_computed_with_one_warning(name: str, scope: str | None, labels: list[int]) -> None:
    E = rows_for(labels)
    with pytest.warns(DegenerateBatchWarning) as caught:
        value = loss_of(name, scope)(E, torch.tensor(labels, dtype=torch.int64))
    assert len(caught) == 1
    assert "sampler" in str(caught[0].message).lower()
    expected = expected_value(name, scope, E, labels)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    value.backward()
    assert E.grad is not None
    torch.testing.assert_close(E.grad, oracles.gradient(expected, E), rtol=1e-8, atol=1e-10)


@every_loss
def test_nothing_left_is_zero_with_zero_gradient(name: str) -> None:
    for labels in ([], [3]):
        for scope in (None, "class_pair") if name in oracles.EXPANDABLE else (None,):
            E = rows_for(labels)
            with pytest.warns(DegenerateBatchWarning):
                value = loss_of(name, scope)(E, labels)
            value.backward()
            assert value.item() == 0
            assert (E.grad == 0).all()


def test_the_warning_says_which_of_the_three_it_is() -> None:
    texts = set()
    for labels in ([], [3, 3, 3, 3], [1, 2, 3, 4]):
        with pytest.warns(DegenerateBatchWarning) as caught:
            loss_of("multi_similarity", "class_pair")(rows_for(labels), labels)
        texts.add(str(caught[0].message))
    assert len(texts) == 3


def test_pythons_own_filter_keeps_a_long_run_from_being_flooded() -> None:
    loss = loss_of("multi_similarity", "class_pair")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for seed in range(5):
            torch.manual_seed(seed)
            loss(rows_for([1, 2, 3, 4]), [1, 2, 3, 4 + seed])
    assert len(caught) == 1


@every_case
def test_a_good_batch_does_not_warn(name: str, scope: str | None) -> None:
    E, labels = batch((2, 2, 2), paired=True)
    loss_of(name, scope)(E, labels)  # warnings are errors here


@pytest.mark.parametrize(("name", "scope"), [case for case in oracles.CASES if case[1] != "anchor"])
def test_a_block_of_rows_without_positives_is_no_degenerate_batch(name: str, scope: str | None) -> None:
    """The batch has positive pairs; that the anchors of this block have none teaches nothing about the sampler."""
    E, labels = batch((3, 1, 2))
    (lone,) = [i for i in range(len(labels)) if (labels == labels[i]).sum() == 1]
    loss_of(name, scope)(E, labels, rows=torch.tensor([lone]))  # warnings are errors here


@every_loss
def test_a_batch_that_ignore_index_empties_is_a_degenerate_one(name: str) -> None:
    E = rows_for([3, 3, 3])
    with pytest.warns(DegenerateBatchWarning):
        value = loss_of(name, None, ignore_index=3)(E, [3, 3, 3])
    value.backward()
    assert value.item() == 0
    assert (E.grad == 0).all()


WRAPPERS = {
    "plain": lambda loss: loss,
    "expanded": EmbeddingExpansion,
    "memory": lambda loss: CrossBatchMemory(EmbeddingExpansion(loss), embedding_size=3),
    "distributed": lambda loss: DistributedLoss(EmbeddingExpansion(loss)),
    "in blocks": lambda loss: EmbeddingExpansion(loss, chunk=2),
}


@pytest.mark.parametrize("wrapper", list(WRAPPERS))
def test_the_warning_points_at_the_line_that_calls_the_loss(wrapper: str) -> None:
    loss = WRAPPERS[wrapper](LOSSES["multi_similarity"]())
    with pytest.warns(DegenerateBatchWarning) as found:
        loss(rows_for([1, 1]), [1, 1])
    line = inspect.currentframe().f_lineno - 1
    assert [(warning.filename, warning.lineno) for warning in found] == [(__file__, line)]


@pytest.mark.parametrize("name", list(PROXY_LOSSES))
def test_that_of_a_proxy_loss_does_too(name: str) -> None:
    with pytest.warns(DegenerateBatchWarning) as found:
        PROXY_LOSSES[name](num_classes=3, embedding_size=3)(torch.zeros(0, 3), [])
    assert {warning.filename for warning in found} == {__file__}
