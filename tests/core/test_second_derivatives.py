"""Gradients of gradients, as gradient penalties take them: the numerical derivative of the gradient, or a sentence."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradgradcheck

from embedding_expansion import CrossBatchMemory, DistributedLoss, EmbeddingExpansion, MultiSimilarityLoss, TripletLoss
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.search import native
from embedding_expansion.errors import InvalidInput

from .batches import batch, batch_for
from .proxies import SCOPES as PROXY_CASES
from .proxies import numbered_batch, proxy_loss
from .proxies import with_scope as proxies_with_scope

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers

SCOPES = ["class_pair", "anchor", "negative"]
EXACT = [name for name in LOSSES if name != "circle"]  # its weights are constants, as its paper has it
EXPANDABLE = [name for name in EXACT if not LOSSES[name].not_expandable]
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in EXACT),
    *(("triplet", {"mining": mining}) for mining in ("hard", "semihard", "easy_positive")),
    ("triplet", {"soft_margin": True}),
    ("triplet", {"squared": False, "average": "active", "normalize": False}),
    ("margin", {"count": "triplets"}),
    ("hphn_triplet", {"soft_margin": True}),
    ("smooth_ap", {"query_counts": True}),
    ("multi_similarity", {"chunk": 3}),
    ("histogram", {"chunk": 3}),
]
every_search = pytest.mark.parametrize("natively", [True, False], ids=["native", "torch"])


def rows_of(scope: str | None, seed: int = 3) -> tuple[Tensor, Tensor]:
    E, labels = batch_for(scope, seed, d=3)
    return E.requires_grad_(), labels


def assert_twice(value: Callable[[Tensor], Tensor], rows: Tensor) -> None:
    assert gradgradcheck(value, (rows,), atol=1e-4, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_plain_losses_have_one(name: str, options: dict[str, Any]) -> None:
    E, labels = rows_of(None)
    assert_twice(lambda rows: LOSSES[name](**options)(rows, labels), E)


@every_search
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", EXPANDABLE)
def test_expanded_losses_have_one(name: str, scope: str, natively: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not natively:
        monkeypatch.setattr(native, "takes", lambda product: False)
    E, labels = rows_of(scope)
    for n in (0, 2) if natively else (2,):
        loss = EmbeddingExpansion(LOSSES[name](), n=n, scope=scope)
        assert_twice(lambda rows, loss=loss: loss(rows, labels), E)  # type: ignore[misc]


@pytest.mark.parametrize("scope", SCOPES)
def test_it_reaches_the_reference_and_every_kind_of_point(scope: str) -> None:
    E, labels = rows_of(scope)
    R, of_reference = rows_of(scope, 5)
    loss = EmbeddingExpansion(MultiSimilarityLoss(chunk=3), scope=scope)
    assert_twice(lambda rows: loss(E.detach(), labels, reference=rows, reference_labels=of_reference), R)
    assert_twice(lambda rows: loss(rows, labels, reference=R.detach(), reference_labels=of_reference), E)
    for normalize in (True, False):
        off = EmbeddingExpansion(TripletLoss(normalize=False), scope=scope, normalize_synthetic=normalize)
        assert_twice(lambda rows, off=off: off(rows, labels), E)  # type: ignore[misc]


@pytest.mark.parametrize(("name", "scope"), PROXY_CASES)
def test_losses_on_proxies_have_one_of_rows_and_proxies(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope, d=3)
    loss = proxies_with_scope(proxy_loss(name, 3), scope)
    (key,) = (key for key, _ in loss.named_parameters() if key.endswith("proxies"))
    assert_twice(lambda rows: loss(rows, labels), E.requires_grad_())
    proxies = loss.get_parameter(key).detach().clone().requires_grad_()
    assert_twice(lambda rows: torch.func.functional_call(loss, {key: rows}, (E.detach(), labels)), proxies)


@pytest.mark.parametrize("expanded", [False, True])
def test_memories_and_one_process_of_ranks_have_one(expanded: bool) -> None:
    E, labels = rows_of(None)
    inner = EmbeddingExpansion(MultiSimilarityLoss()) if expanded else MultiSimilarityLoss()
    memory = CrossBatchMemory(inner, embedding_size=3, size=8).double()
    memory(E + 0.3, labels)
    memory.eval()
    for loss in (memory, DistributedLoss(memory)):
        assert_twice(lambda rows, loss=loss: loss(rows, labels), E)  # type: ignore[misc]


def test_losses_of_another_library_have_one_expanded() -> None:
    E, labels = rows_of(None)
    loss = EmbeddingExpansion(peers.MultiSimilarityLoss())
    assert_twice(lambda rows: loss(rows, labels), E)


def test_infinitely_many_points_have_none_and_say_so() -> None:
    for scope in SCOPES:
        E, labels = rows_of(scope)
        loss = EmbeddingExpansion(TripletLoss(), n=math.inf, scope=scope)
        with pytest.raises(InvalidInput, match=r"a second derivative .* n=infinity is asked for \(create_graph=True\)"):
            loss(E, labels).backward(create_graph=True)
        (gradient,) = torch.autograd.grad(loss(E, labels), E)
        assert gradient.isfinite().all()


def degenerate() -> dict[str, tuple[Tensor, Tensor]]:
    E, labels = batch((3, 1, 2, 3), d=3, seed=3)
    twice = E.clone()
    twice[labels == labels[0]] = twice[0].clone()
    return {
        "one class": (E, torch.zeros_like(labels)),
        "no positives": (E, torch.arange(len(E))),
        "equal rows of a class": (twice, labels),
        "all rows equal": (E[:1].expand_as(E), labels),
        "a row of zeros": (torch.cat([0 * E[:1], E[1:]]), labels),
    }


@pytest.mark.filterwarnings("ignore::embedding_expansion.errors.DegenerateBatchWarning")
@pytest.mark.parametrize("kind", list(degenerate()))
@pytest.mark.parametrize("expanded", [False, True])
def test_it_is_finite_where_a_batch_teaches_nothing(kind: str, expanded: bool) -> None:
    E, labels = degenerate()[kind]
    for name in LOSSES:
        if expanded and LOSSES[name].not_expandable:
            continue
        loss: PairLoss = EmbeddingExpansion(LOSSES[name]()) if expanded else LOSSES[name]()
        rows = E.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(rows, labels), rows, create_graph=True)
        gradient.square().sum().backward()
        assert rows.grad is not None
        assert rows.grad.isfinite().all(), name
