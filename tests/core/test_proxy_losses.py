"""Losses on proxies against slow loops of the papers' formulas, plain and expanded, and against the incumbent."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import embedding_expansion
from embedding_expansion.core import losses
from embedding_expansion.core.expansion import expand
from embedding_expansion.core.losses import PROXY_LOSSES, ArcFaceLoss, ProxyAnchorLoss, SoftTripleLoss
from embedding_expansion.core.pairs import compare

from . import oracles
from .oracles import proxy as formulas
from .proxies import EXPANDABLE, NAMES, SCOPES, C, numbered_batch, per_class, proxy_loss, with_scope

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import regularizers

OTHERS: dict[str, dict[str, Any]] = {
    "proxy_nca": {"scale": 3.0, "whole_softmax": True},
    "normalized_softmax": {"temperature": 0.2},
    "cosface": {"margin": 0.1, "scale": 10.0},
    "arcface": {"margin": 1.2, "scale": 5.0},
    "sub_center_arcface": {"margin": 1.2, "scale": 5.0},
    "soft_triple": {"margin": 0.2, "scale": 3.0, "gamma": 0.7},
    "proxy_anchor": {"margin": 0.3, "alpha": 4.0},
}


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def expected_terms(
    name: str, E: Tensor, labels: Tensor, P: Tensor, scope: str | None, n: int, **parameters: float
) -> list[list[oracles.Term]]:
    given, count = labels.tolist(), None if scope is None else n
    if name == "proxy_anchor":
        rows = formulas.proxies_against_rows(unit(E), given, unit(P), count)
    else:
        rows = formulas.rows_against_proxies(unit(E), given, unit(P), per_class(name), count, scope or "class_pair")
    return [formulas.ORACLES[name](row, **parameters) for row in rows]


def assert_equals_formula(name: str, scope: str | None, n: int, seed: int, **parameters: float) -> None:
    """Terms, value, and the gradients of embeddings and proxies."""
    E, labels = numbered_batch(scope, seed)
    plain = {"tau": 0.0} if name == "soft_triple" else {}
    inner = proxy_loss(name, seed=seed, **plain, **parameters)
    loss = with_scope(inner, scope, n)
    E.requires_grad_()
    expected = expected_terms(name, E, labels, inner.proxies, scope, n, **parameters)
    terms = loss.per_anchor(E, labels)
    torch.testing.assert_close(terms.total, oracles.totals(expected), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(terms.weight, oracles.weights(expected), rtol=0, atol=0)
    for sought in (E, inner.proxies):
        (ours,) = torch.autograd.grad(terms.mean(), sought, retain_graph=True)
        torch.testing.assert_close(ours, oracles.gradient(oracles.mean(expected), sought), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("parameters", ["default", "other"])
@pytest.mark.parametrize("name", NAMES)
def test_plain_loss_equals_its_formula(name: str, parameters: str) -> None:
    for seed in range(3):
        assert_equals_formula(name, None, 0, seed, **(OTHERS[name] if parameters == "other" else {}))


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize(("name", "scope"), [case for case in SCOPES if case[1] is not None])
def test_expanded_loss_is_that_of_the_hardest_points(name: str, scope: str, n: int) -> None:
    for seed in range(2):
        assert_equals_formula(name, scope, n, seed, **OTHERS[name])


def test_expansion_finds_synthetic_points_that_are_harder() -> None:
    """The formula's test would pass on a batch where no synthetic point ever wins; here they do."""
    E, labels = numbered_batch(seed=1)
    for name in EXPANDABLE:
        mined, expanded = (with_scope(proxy_loss(name), "class_pair", n, statistics=True) for n in (0, 3))
        assert expanded(E, labels) > mined(E, labels) + 1e-3
        assert expanded.last_statistics["synthetic_share"] > 0
        assert mined.last_statistics["synthetic_share"] == 0


def test_the_functions_read_the_public_tables_as_well() -> None:
    E, labels = numbered_batch()
    for name in ("proxy_nca", "normalized_softmax", "cosface", "arcface"):
        loss, function = proxy_loss(name), getattr(losses, name)
        where = {"reference": unit(loss.proxies), "reference_labels": torch.arange(C)}
        plain = function(compare(unit(E), labels, **where))
        torch.testing.assert_close(plain.mean(), loss(E, labels))
        expanded = function(expand(unit(E), labels, 2, **where))
        torch.testing.assert_close(expanded.mean(), with_scope(loss, "class_pair")(E, labels))
    loss = proxy_loss("proxy_anchor")
    turned = compare(unit(loss.proxies), torch.arange(C), reference=unit(E), reference_labels=labels)
    torch.testing.assert_close(losses.proxy_anchor(turned).mean(), loss(E, labels))


def test_proxies_of_a_class_have_no_points_between_them() -> None:
    """Opposite sub-centres next to a row: their middle would be nearer than either."""
    loss = PROXY_LOSSES["sub_center_arcface"](2, 2, sub_centers=2, statistics=True).double()
    loss.proxies.data = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0], [1.0, -1.0]]).double()
    E = torch.tensor([[1.0, 0.0]]).double()
    torch.testing.assert_close(with_scope(loss, "class_pair", 7)(E, [0]), loss(E, [0]))


def test_soft_triple_draws_the_centers_of_a_class_together() -> None:
    E, labels = numbered_batch()
    loss, without = (proxy_loss("soft_triple", centers_per_class=4, tau=tau) for tau in (0.3, 0.0))
    expected = formulas.spread(unit(loss.proxies), 4)
    ours = loss(E, labels) - without(E, labels)
    torch.testing.assert_close(ours, 0.3 * expected)
    given, wanted = (torch.autograd.grad(value, loss.proxies)[0] for value in (loss.spread(), expected))
    torch.testing.assert_close(given, wanted)
    assert proxy_loss("soft_triple", centers_per_class=1)(E, labels).isfinite()


def test_soft_triple_with_centers_that_coincide_has_finite_gradients() -> None:
    E, labels = numbered_batch()
    loss = proxy_loss("soft_triple")
    loss.proxies.data[1] = loss.proxies.data[0]
    loss(E, labels).backward()
    assert loss.proxies.grad.isfinite().all()


def test_arcface_keeps_falling_with_the_cosine_where_angle_and_margin_exceed_pi() -> None:
    angle = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.float64, requires_grad=True)
    E = torch.stack([angle.cos(), angle.sin()], dim=1)
    P = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    pairs = compare(E, [0] * 200, metric="inner", reference=P.clone(), reference_labels=[0, 1])
    pairs.negative.detach_()
    (slope,) = torch.autograd.grad(losses.arcface(pairs, margin=0.5, scale=2.0).total.sum(), angle)
    assert (slope > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_on_its_proxy_or_opposite_has_finite_gradients(name: str) -> None:
    loss = proxy_loss(name).float()
    E = torch.stack([loss.proxies[0], -loss.proxies[0], loss.proxies[-1], torch.zeros(4)]).detach().requires_grad_()
    loss(E, [0, 0, C - 1, 1]).backward()
    assert E.grad.isfinite().all()
    assert loss.proxies.grad.isfinite().all()


@pytest.mark.parametrize(("name", "scope"), SCOPES)
def test_gradcheck(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope, seed=4)
    inner = proxy_loss(name, **OTHERS[name])
    loss = with_scope(inner, scope)

    def value(E: Tensor, proxies: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"proxies" if scope is None else "loss.proxies": proxies}, (E, labels))

    proxies = inner.proxies.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (E.requires_grad_(), proxies), fast_mode=True)


# --- the incumbent ----------------------------------------------------------------------------------------------------


class UnitRows(peers.NormalizedSoftmaxLoss):
    """It normalises its weights, but takes the embeddings as they are."""

    def forward(self, E: Tensor, labels: Tensor) -> Tensor:
        return super().forward(unit(E), labels)


DEGREES = {"margin": math.radians(28.6)}
CASES: list[tuple[str, dict[str, Any], torch.nn.Module]] = [
    ("proxy_nca", {"scale": 3.0, "whole_softmax": True}, peers.ProxyNCALoss(C, 4, softmax_scale=3)),
    ("normalized_softmax", {}, UnitRows(C, 4)),
    ("cosface", {}, peers.CosFaceLoss(C, 4)),
    ("arcface", DEGREES, peers.ArcFaceLoss(C, 4)),
    ("arcface", {"margin": math.radians(120), "scale": 3.0}, peers.ArcFaceLoss(C, 4, margin=120, scale=3)),
    ("sub_center_arcface", DEGREES, peers.SubCenterArcFaceLoss(num_classes=C, embedding_size=4)),
    ("soft_triple", {"tau": 0.0}, peers.SoftTripleLoss(C, 4, centers_per_class=2)),
    ("proxy_anchor", {}, peers.ProxyAnchorLoss(C, 4)),
    ("proxy_anchor", {"margin": 0.3, "alpha": 5.0}, peers.ProxyAnchorLoss(C, 4, margin=0.3, alpha=5)),
]


@pytest.mark.parametrize(("name", "parameters", "peer"), CASES, ids=[f"{k} {case[0]}" for k, case in enumerate(CASES)])
def test_loss_equals_the_incumbents(name: str, parameters: dict[str, Any], peer: torch.nn.Module) -> None:
    """Both normalise the rows themselves, so rows of any norm are handed in; some of its weights stand upright."""
    E, labels = numbered_batch(seed=6)
    E.requires_grad_()
    loss = proxy_loss(name, **parameters)
    ((_, theirs),) = peer.named_parameters()
    theirs.data = (loss.proxies if theirs.shape == loss.proxies.shape else loss.proxies.T).detach().clone()
    ours, theirs = loss(E, labels), peer(E, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    (gradient,), (expected,) = (torch.autograd.grad(value, E) for value in (ours, theirs))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_the_regulariser_of_soft_triple_equals_the_incumbents() -> None:
    E, labels = numbered_batch(seed=6)
    loss = proxy_loss("soft_triple", tau=0.2)
    peer = peers.SoftTripleLoss(
        C, 4, centers_per_class=2, weight_regularizer=regularizers.SparseCentersRegularizer(C, 2), weight_reg_weight=0.2
    )
    peer.fc.data = loss.proxies.T.detach().clone()
    torch.testing.assert_close(loss(E, labels), peer(E, labels), rtol=1e-6, atol=1e-8)


# --- what the registry says -------------------------------------------------------------------------------------------

DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "proxy_nca": ("ProxyNCALoss", {"scale": 1.0, "whole_softmax": False}),
    "normalized_softmax": ("NormalizedSoftmaxLoss", {"temperature": 0.05}),
    "cosface": ("CosFaceLoss", {"margin": 0.35, "scale": 64.0}),
    "arcface": ("ArcFaceLoss", {"margin": 0.5, "scale": 64.0}),
    "sub_center_arcface": ("SubCenterArcFaceLoss", {"sub_centers": 3, "margin": 0.5, "scale": 64.0}),
    "soft_triple": (
        "SoftTripleLoss",
        {"centers_per_class": 10, "margin": 0.01, "scale": 20.0, "gamma": 0.1, "tau": 0.2},
    ),
    "proxy_anchor": ("ProxyAnchorLoss", {"margin": 0.1, "alpha": 32.0}),
}


def test_the_registry_names_the_losses_with_the_papers_defaults() -> None:
    assert list(PROXY_LOSSES) == list(DEFAULTS)
    for name, (class_name, defaults) in DEFAULTS.items():
        assert PROXY_LOSSES[name] is getattr(embedding_expansion, class_name)
        parameters = inspect.signature(PROXY_LOSSES[name]).parameters
        assert list(parameters)[:2] == ["num_classes", "embedding_size"]
        assert {key: parameters[key].default for key in defaults} == defaults


def test_parameters_come_by_position_too() -> None:
    assert ArcFaceLoss(3, 2, 0.3, 10.0).parameters_of_function == {"margin": 0.3, "scale": 10.0}
    loss = SoftTripleLoss(3, 2, 4, 0.3, 10.0, 0.2, tau=0.0)
    assert loss.proxies.shape == (12, 2)
    assert loss.parameters_of_function == {"margin": 0.3, "scale": 10.0, "gamma": 0.2}
    assert "proxies=(3, 2)" in repr(ProxyAnchorLoss(3, 2))
    assert "tau=0.5" in repr(SoftTripleLoss(3, 2, tau=0.5))
