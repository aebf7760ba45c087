"""Numbers: finite values and gradients where formulas have none, half precision, autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest
from embedding_expansion.core.losses import LOSSES

from . import oracles
from .batches import PAIRED, batch

every_loss = pytest.mark.parametrize("name", list(oracles.ORACLES))
every_case = pytest.mark.parametrize(("name", "scope"), oracles.CASES)
every_scope = pytest.mark.parametrize("scope", [None, "class_pair", "anchor", "negative"])


def loss_of(name: str, scope: str | None, **options: Any) -> torch.nn.Module:
    loss = LOSSES[name](**options)
    return loss if scope is None else EmbeddingExpansion(loss, n=3, scope=scope)


def awkward(kind: str) -> tuple[Tensor, Tensor]:
    """Eight rows in float32, paired, two classes of four and so on, and one thing wrong with them."""
    E, labels = batch(PAIRED, d=4, paired=True)
    E = E.float()
    other = int((labels != labels[0]).nonzero()[0, 0])
    match kind:
        case "duplicates in a class":
            E[1] = E[0]
        case "duplicates across classes":
            E[other] = E[0]
        case "all rows the same":
            E[:] = E[0]
        case "all rows the same, without rounding":
            E[:] = torch.eye(4)[0]
        case "duplicates across classes, without rounding":
            E[[0, other]] = torch.eye(4)[1]
        case "opposite points in a class":
            E[1] = -E[0]
        case "opposite classes":
            E[:] = torch.where((labels == labels[0])[:, None], E[0], -E[0])
        case "a zero row":
            E[0] = 0
        case "two zero rows of two classes":
            E[[0, other]] = 0
        case "all rows zero":
            E[:] = 0
        case "tiny rows":
            E *= 1e-7
        case "huge rows":
            E *= 1e4
    return E, labels


KINDS = [
    "duplicates in a class",
    "duplicates across classes",
    "all rows the same",
    "all rows the same, without rounding",
    "duplicates across classes, without rounding",
    "opposite points in a class",
    "opposite classes",
    "a zero row",
    "two zero rows of two classes",
    "all rows zero",
    "tiny rows",
    "huge rows",
]


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_value_and_gradient_are_finite(name: str, scope: str | None, kind: str) -> None:
    E, labels = awkward(kind)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        if kind == "tiny rows" and dtype == torch.float16:
            continue  # the true gradient of normalising rows of 1e-7 is beyond float16's largest number
        for normalize in (True, False) if kind != "huge rows" else (True,):
            given = E.to(dtype, copy=True).requires_grad_()
            value = loss_of(name, scope, normalize=normalize)(given, labels)
            value.backward()
            assert value.isfinite(), (dtype, normalize)
            assert given.grad.isfinite().all(), (dtype, normalize)
            assert given.grad.dtype == dtype


@pytest.mark.parametrize("kind", ["duplicates in a class", "opposite points in a class", "a zero row"])
@every_scope
@pytest.mark.parametrize("name", ["triplet", "n_pair", "multi_similarity"])
def test_awkward_points_do_not_change_a_smooth_loss(name: str, scope: str | None, kind: str) -> None:
    """These read squared distances and inner products, so the formulas have values there: ours are those."""
    E, labels = awkward(kind)
    E = torch.nn.functional.normalize(E.double(), dim=1)
    metric = oracles.METRICS[name]
    if scope is None:
        table = oracles.plain_table(E, labels.tolist(), metric)
    else:
        table = oracles.expanded_table(E, labels.tolist(), 3, scope, metric=metric)
    expected = oracles.mean(oracles.ORACLES[name](table))
    torch.testing.assert_close(loss_of(name, scope)(E, labels), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 5e-3), (torch.bfloat16, 3e-2)])
@every_case
def test_half_precision_is_near_float32(name: str, scope: str | None, dtype: torch.dtype, rtol: float) -> None:
    E, labels = batch((4, 4, 4), d=16, seed=8, paired=True)
    half = E.to(dtype)
    loss = loss_of(name, scope)
    given, exact = half.clone().requires_grad_(), half.float().requires_grad_()
    value, expected = loss(given, labels), loss(exact, labels)
    torch.testing.assert_close(value.float(), expected, rtol=rtol, atol=0)
    value.backward()
    expected.backward()
    assert given.grad.dtype == dtype
    error = (given.grad.float() - exact.grad).norm() / exact.grad.norm()
    assert error < 5 * rtol


@every_case
def test_autocast_does_not_reach_into_a_loss(name: str, scope: str | None) -> None:
    E, labels = batch((4, 2, 2), d=16, seed=8, paired=True)
    E = E.float()
    loss = loss_of(name, scope)
    expected = loss(E, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = loss(E, labels)
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scope", ["class_pair", "anchor", "negative"])
def test_autocast_does_not_reach_into_mining(scope: str) -> None:
    """Rows so close together that bfloat16 could not tell which of their points are nearest."""
    E, labels = batch((8, 8, 8), d=16, seed=8, paired=True)
    for label in labels.unique():
        E[labels == label] = E[labels == label][:1] + 0.02 * torch.randn(8, 16, dtype=torch.float64)
    E = torch.nn.functional.normalize(E, dim=1).float()
    expected = expand(E, labels, 3, scope=scope)
    winners = hardest(E, labels, 3, scope=scope)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = expand(E, labels, 3, scope=scope)
        assert torch.equal(hardest(E, labels, 3, scope=scope).ends, winners.ends)
    assert torch.equal(given.negative, expected.negative)
    assert torch.equal(given.positive, expected.positive)


@every_case
def test_a_distance_of_a_ten_thousandth_is_no_zero_in_float64(name: str, scope: str | None) -> None:
    E, labels = batch((4, 4), d=8, seed=2, paired=True)
    E = torch.nn.functional.normalize(E[:1] + 1e-4 * E, dim=1)
    metric = oracles.METRICS[name]
    if scope is None:
        table = oracles.plain_table(E, labels.tolist(), metric)
    else:
        table = oracles.expanded_table(E, labels.tolist(), 3, scope, metric=metric)
    expected = oracles.ORACLES[name](table)
    terms = loss_of(name, scope, normalize=False).per_anchor(E, labels)
    torch.testing.assert_close(terms.total, oracles.totals(expected), rtol=1e-6, atol=0)


@every_loss
def test_close_points_keep_their_distance_in_float32(name: str) -> None:
    """Rows a thousandth apart: the table in float32 is near the one in float64."""
    E, labels = batch((4, 4), d=8, seed=2)
    E = torch.nn.functional.normalize(E[:1] + 1e-2 * E, dim=1)
    exact, given = LOSSES[name]()(E, labels), LOSSES[name]()(E.float(), labels)
    torch.testing.assert_close(given.double(), exact, rtol=2e-3, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    E, labels = batch((2, 2, 2), d=8)
    E = E.float().requires_grad_()
    for loss in (LOSSES["n_pair"](scale=1000.0), LOSSES["multi_similarity"](alpha=500.0, beta=1000.0)):
        value = loss(E, labels)
        value.backward()
        assert value.isfinite()
        assert E.grad.isfinite().all()
