"""On a GPU every loss gives what it gives on the CPU, plain and expanded. Skipped where there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest, synthesize
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.core.search import triton
from embedding_expansion.errors import InvalidInput

from . import oracles
from .batches import batch_for
from .proxies import SCOPES as PROXY_CASES
from .proxies import numbered_batch, proxy_loss, with_scope

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
needs_triton = pytest.mark.skipif(
    not triton.available(torch.device("cuda")), reason="Triton is missing, or EMBEX_TRITON is 0"
)


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


def on_gpu(E: Tensor, labels: Tensor, n: float, **options: Any) -> tuple[Tensor, Tensor]:
    rows = E.cuda().requires_grad_()
    pairs = expand(rows, labels, n, **options)
    value = pairs.negative[pairs.negative_mask]
    weights = torch.linspace(-1, 2, len(value), dtype=E.dtype, device="cuda")
    return value.detach(), torch.autograd.grad((value * weights).sum() + pairs.positive.sum(), rows)[0]


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 8, math.inf])
@pytest.mark.parametrize("scope", ["class_pair", "anchor", "negative"])
def test_triton_finds_what_torch_does(scope: Any, n: float, dtype: torch.dtype) -> None:
    for normalize in (True, False):
        E, labels = batch_for(scope, 3, d=8, unit=normalize)
        given = E.to(dtype), labels, n
        ours = on_gpu(*given, scope=scope, normalize_synthetic=normalize)
        with triton.disabled():
            theirs = on_gpu(*given, scope=scope, normalize_synthetic=normalize)
        rounding = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, **rounding)


@needs_triton
@pytest.mark.parametrize("k", [2, 4, 8, 32])
def test_triton_finds_as_hard_pairs_in_a_larger_batch(k: int) -> None:
    labels = torch.arange(512) // k
    E = torch.nn.functional.normalize(torch.randn(512, 64, generator=torch.Generator().manual_seed(k)), dim=1)
    for n in (2, math.inf):
        ours = on_gpu(E, labels, n)[0]
        with triton.disabled():
            theirs = on_gpu(E, labels, n)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class _NoWaiting:
    """An error for every wait of the host for the GPU."""

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


@needs_triton
@pytest.mark.parametrize("form", ["plain", "expanded", "infinite", "balanced", "memory", "blocks", "blocks, balanced"])
@pytest.mark.parametrize("name", ["multi_similarity", "triplet", "hphn_triplet", "sup_con", "contrastive"])
def test_no_step_waits(name: str, form: str) -> None:
    labels = torch.arange(64) // 4
    inner: Any = LOSSES[name]()
    if form != "plain":
        n = math.inf if form == "infinite" else 2
        inner = EmbeddingExpansion(inner, n=n, balance="balanced" in form, chunk=24 if "blocks" in form else None)
    loss = CrossBatchMemory(inner, 16, size=96).cuda() if form == "memory" else inner.cuda()
    rows = torch.randn(64, 16, device="cuda", requires_grad=True)
    for _ in range(3):
        loss(rows, labels).backward()
    with _NoWaiting():
        for shift in (0, 1, 2):
            loss(rows, (labels + shift) % 16).backward()


@needs_triton
@pytest.mark.parametrize("balance", [False, True])
def test_a_cuda_graph_holds_model_loss_and_step(balance: bool) -> None:
    """The labels of the graph are of one pattern. Its steps are those of the same training without it."""
    inputs = torch.randn(32, 12, device="cuda")
    torch.testing.assert_close(
        trained(inputs, balance, with_graph=True), trained(inputs, balance, with_graph=False), rtol=1e-4, atol=1e-5
    )


def trained(inputs: Tensor, balance: bool, *, with_graph: bool) -> Tensor:
    """The weights after 3 steps, and after 5 of a CUDA graph or as many without it."""
    torch.manual_seed(0)
    model, labels = torch.nn.Linear(12, 8).cuda(), torch.arange(32) // 4
    loss = EmbeddingExpansion(LOSSES["multi_similarity"](), n=2, balance=balance)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        loss(model(inputs), labels).backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    if with_graph:
        with torch.cuda.graph(graph):
            step()
    for _ in range(5):
        graph.replay() if with_graph else step()
    return model.weight.detach().clone()


@needs_triton
def test_compiled_code_uses_triton() -> None:
    rows, labels = torch.randn(32, 8, device="cuda", requires_grad=True), torch.arange(32, device="cuda") // 4
    loss = EmbeddingExpansion(LOSSES["multi_similarity"](), n=2)
    expected = torch.autograd.grad(loss(rows, labels), rows)[0]
    found = torch.autograd.grad(torch.compile(loss)(rows, labels), rows)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
