"""On a GPU every loss gives what it gives on the CPU, plain and expanded. Skipped where there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import hardest, synthesize
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.errors import InvalidInput

from . import oracles
from .batches import batch_for
from .proxies import SCOPES as PROXY_CASES
from .proxies import numbered_batch, proxy_loss, with_scope

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def value_and_gradient(loss: torch.nn.Module, E: Tensor, labels: Tensor, device: str) -> tuple[Tensor, ...]:
    rows = E.to(device).requires_grad_()
    value = loss.to(device)(rows, labels.to(device))
    return value.detach().cpu(), torch.autograd.grad(value, rows)[0].cpu()


def assert_same_on_both(loss: torch.nn.Module, E: Tensor, labels: Tensor) -> None:
    here, there = (value_and_gradient(loss, E, labels, device) for device in ("cpu", "cuda"))
    for ours, theirs in zip(there, here, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("n", [0, 2, math.inf])
@pytest.mark.parametrize(("name", "scope"), oracles.CASES)
def test_every_loss_is_the_same_on_both_devices(name: str, scope: str | None, n: float) -> None:
    E, labels = batch_for(scope, d=8)
    loss: Any = LOSSES[name]()
    assert_same_on_both(loss if scope is None else EmbeddingExpansion(loss, n=n, scope=scope), E, labels)


@pytest.mark.parametrize("balance", [True, "sphere"])
@pytest.mark.parametrize("scope", ["class_pair", "negative"])
@pytest.mark.parametrize("name", ["triplet", "multi_similarity", "lifted_structure", "histogram"])
def test_balance_is_the_same_on_both_devices(name: str, scope: Any, balance: Any) -> None:
    E, labels = batch_for(scope, d=8)
    assert_same_on_both(EmbeddingExpansion(LOSSES[name](), scope=scope, balance=balance), E, labels)


@pytest.mark.parametrize(("name", "scope"), PROXY_CASES)
def test_every_loss_on_proxies_is_the_same_on_both_devices(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope)
    assert_same_on_both(with_scope(proxy_loss(name), scope), E, labels)


@pytest.mark.parametrize("options", [{"chunk": 3}, {"max_segments": 2}, {"statistics": True}], ids=str)
def test_options_are_the_same_on_both_devices(options: dict[str, Any]) -> None:
    E, labels = batch_for("class_pair", d=8)
    assert_same_on_both(EmbeddingExpansion(LOSSES["multi_similarity"](), n=2, **options), E, labels)


@pytest.mark.parametrize("n", [2, math.inf])
def test_winners_are_the_same_on_both_devices(n: float) -> None:
    E, labels = batch_for("class_pair", 3, d=8)
    here, there = (hardest(E.to(device), labels.to(device), n) for device in ("cpu", "cuda"))
    off = ~torch.eye(len(here.ends), dtype=torch.bool)
    assert (here.ends[off] == there.ends.cpu()[off]).all()
    torch.testing.assert_close(here.weights[off], there.weights.cpu()[off])
    torch.testing.assert_close(synthesize(E, labels, 2)[0], synthesize(E.cuda(), labels.cuda(), 2)[0].cpu())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", oracles.EXPANDABLE)
def test_autocast_on_the_gpu_keeps_values_and_gradients_finite(name: str, dtype: torch.dtype) -> None:
    E, labels = batch_for("class_pair", d=16)
    rows = E.float().cuda().requires_grad_()
    head = torch.nn.Linear(16, 8).cuda()
    with torch.autocast("cuda", dtype=dtype):
        value = EmbeddingExpansion(LOSSES[name](), n=2)(head(rows), labels.cuda())
    (gradient,) = torch.autograd.grad(value, rows)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_check_finite_looks_on_the_gpu_where_asked_for() -> None:
    E, labels = batch_for("class_pair")
    E[1, 0] = math.nan
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        LOSSES["triplet"](check_finite=True)(E.cuda(), labels.cuda())


@pytest.mark.parametrize("scope", [None, "class_pair"])
def test_an_indices_tuple_of_either_device_and_second_derivatives_are_the_same_on_both(scope: str | None) -> None:
    E, labels = batch_for("class_pair", d=8)
    same = labels[:, None] == labels
    pairs = (
        *same.fill_diagonal_(False).triu().nonzero(as_tuple=True),
        *(labels[:, None] > labels).nonzero(as_tuple=True),
    )
    loss: Any = LOSSES["multi_similarity"]()
    loss = loss if scope is None else EmbeddingExpansion(loss)
    found = []
    for device, of_pairs in (("cpu", "cpu"), ("cuda", "cpu"), ("cuda", "cuda")):
        rows = E.to(device).requires_grad_()
        value = loss(rows, labels.to(device), tuple(entry.to(of_pairs) for entry in pairs))
        (gradient,) = torch.autograd.grad(value, rows, create_graph=True)
        (again,) = torch.autograd.grad(gradient.square().sum(), rows)
        found.append((value.detach().cpu(), gradient.detach().cpu(), again.cpu()))
    for there in found[1:]:
        torch.testing.assert_close(there, found[0], rtol=1e-7, atol=1e-7)
