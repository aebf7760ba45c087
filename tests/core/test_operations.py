"""How many operations a step dispatches, and that none of them depends on data where the labels are on the CPU."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from embedding_expansion import CrossBatchMemory, EmbeddingExpansion
from embedding_expansion.core import numbers
from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES
from embedding_expansion.core.losses.pairwise import LIMIT
from embedding_expansion.core.losses.triplet import ROWS
from embedding_expansion.core.numbers import remember
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.search import native, triton
from embedding_expansion.forms import SCOPES

# An older torch divides some functions into other operations, and its fake CUDA tensors end a process without CUDA.
LOWEST = 2, 13
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < LOWEST, reason="operations are those of torch 2.13 or later"
)
B, K = 1024, 4
FEW, MANY = 60, 90
MORE = 30  # than the plain loss, of an expansion whose search is a kernel
ONE_PIECE = {"triplet": ROWS, "smooth_ap": 512, "recall_at_k": 512}  # more rows are worked on piece by piece
LEAN = ["contrastive", "triplet", "n_pair", "lifted_structure", "multi_similarity", "margin", "circle", "sup_con"]
LEAN += ["nt_xent", "nca"]
EVERY = [*LOSSES, *PROXY_LOSSES]
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh"}


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (func.is_view or func.overloadpacket.__name__ in FREE):
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def loss_of(name: str, classes: int, d: int) -> PairLoss:
    return LOSSES[name]() if name in LOSSES else PROXY_LOSSES[name](classes, d)


def step(loss: PairLoss, rows: Tensor, labels: Any) -> None:
    torch.autograd.grad(loss(rows, labels), [rows, *loss.parameters()])


@pytest.mark.parametrize("name", EVERY)
def test_a_plain_loss_dispatches_few_operations(name: str) -> None:
    b = ONE_PIECE.get(name, B)
    loss, labels = loss_of(name, b // K, 64), torch.arange(b) // K
    assert (K - 1) * b * b <= LIMIT or name not in ("smooth_ap", "recall_at_k")
    for shift in (0, 1):  # the second batch has other labels in the same layout
        rows = torch.nn.functional.normalize(torch.randn(b, 64), dim=1).requires_grad_()
        shifted = (labels + shift) % (b // K)
        with Operations() as operations:
            step(loss, rows, shifted)
    assert len(operations.names) <= (FEW if name in LEAN else MANY), operations.names


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        (name, scope)
        for name in EVERY
        for scope in (None, *SCOPES)
        if scope is None or not loss_of(name, 8, 16).not_expandable
        if not (name == "proxy_anchor" and scope == "anchor")  # its anchors are proxies, which have no partners
    ],
)
def test_no_operation_depends_on_data(name: str, scope: Any) -> None:
    """On fake CUDA tensors torch itself cannot run a backward pass without CUDA: it is run on fake ones of the CPU."""
    labels = torch.arange(32) // K
    for device in ("cpu", "cuda"):
        with FakeTensorMode(allow_non_fake_inputs=device == "cpu"), native.disabled(), torch.device(device):
            loss = loss_of(name, 8, 16)
            whole = loss if scope is None else EmbeddingExpansion(loss, scope=scope)
            rows = torch.randn(32, 16, requires_grad=True)
            assert whole(rows, labels).device.type == device
            if device == "cpu":
                step(whole, rows, labels)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels of the search in Triton that would run, which is then the form in use on the CPU."""
    launched: list[str] = []
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton, "_installed", lambda: True)
    monkeypatch.setattr(triton, "_launch", lambda name, *given, **constants: launched.append(name))
    return launched


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("n", [2, math.inf])
@pytest.mark.parametrize("name", LEAN)
def test_with_kernels_an_expansion_adds_few_operations(name: str, n: float, scope: Any, kernels: list[str]) -> None:
    """A kernel counts as one. A balanced expansion costs two further readings of the plain loss at most."""
    labels = torch.arange(256) // K
    rows = torch.nn.functional.normalize(torch.randn(256, 16), dim=1).requires_grad_()
    plain, expanded = loss_of(name, 64, 16), EmbeddingExpansion(loss_of(name, 64, 16), n, scope)
    counts = []
    with native.disabled():
        for loss in (plain, expanded, EmbeddingExpansion(loss_of(name, 64, 16), n, scope, balance=True)):
            step(loss, rows, labels)
            kernels.clear()
            with Operations() as operations:
                step(loss, rows, labels)
            counts.append(len(operations.names) + len(kernels))
    assert kernels == ["search_segments" if n == math.inf else "search_points", "search_backward"]
    assert counts[1] <= counts[0] + MORE
    assert counts[2] <= counts[1] + 2 * counts[0]


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("scope", [None, *SCOPES])
def test_memories_and_blocks_do_not_depend_on_data(scope: Any, balance: bool) -> None:
    """On fake CUDA tensors, where every look at a value is an error."""
    labels = torch.arange(32) // K
    with FakeTensorMode(), native.disabled(), torch.device("cuda"):
        for inner in (loss_of("multi_similarity", 8, 16), loss_of("lifted_structure", 8, 16)):
            whole = inner if scope is None else EmbeddingExpansion(inner, scope=scope, balance=balance)
            memory, blocks = CrossBatchMemory(whole, 16, size=64).cuda(), copy.copy(whole)
            for counter in (memory.labels, memory.entered, memory.batches):
                remember(counter, [0] * counter.numel())  # as those of a memory with values, read once
            blocks.chunk = 10
            with torch.no_grad():
                for _ in range(3):
                    assert memory(torch.randn(32, 16), labels).device.type == "cuda"
                assert blocks(torch.randn(32, 16), labels).device.type == "cuda"


def test_numbers_are_remembered_until_a_tensor_is_changed() -> None:
    labels = torch.arange(12) // 3
    remember(labels, [7] * 12)
    assert numbers.read(labels) == (7,) * 12
    labels.add_(1)
    assert numbers.read(labels) == tuple(labels.tolist())


def test_labels_that_numpy_changes_are_read_again() -> None:
    array = np.arange(8) // 2
    rows, labels = torch.randn(8, 4), torch.from_numpy(array)
    loss = LOSSES["multi_similarity"]()
    before = loss(rows, labels)
    array[:] = np.arange(8) % 2
    assert loss(rows, labels) == loss(rows, torch.arange(8) % 2) != before


def test_fake_tensors_are_not_kept() -> None:
    labels = torch.arange(24) // 3
    rows = torch.randn(24, 8)
    loss = EmbeddingExpansion(LOSSES["triplet"]())
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss(torch.randn(24, 8), labels)
    assert loss(rows, labels).isfinite()


def test_a_mask_that_somebody_changes_in_place_is_made_again() -> None:
    """A miner may change the masks of its table. The next batch of the same layout must not see it."""
    rows, labels = torch.randn(12, 4), torch.arange(12) // 2

    def spoil(pairs: Any) -> Any:
        pairs.negative_mask.zero_()
        pairs.positive_mask.zero_()
        return pairs

    for expanded in (False, True):
        for name in ("multi_similarity", "lifted_structure"):
            loss, spoilt = LOSSES[name](), LOSSES[name](miner=spoil)
            if expanded:
                loss, spoilt = EmbeddingExpansion(loss), EmbeddingExpansion(spoilt)
            expected = loss(rows, labels)
            assert spoilt(rows, labels) != expected
            assert loss(rows, labels) == expected


def test_layouts_are_told_apart() -> None:
    """Batches of one size in many layouts, in turn, plain and expanded: each as if it were the first."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator, dtype=torch.float64), dim=1)
    layouts = [torch.randint(0, 4, (12,), generator=generator) for _ in range(8)]
    losses = [LOSSES["lifted_structure"](), EmbeddingExpansion(LOSSES["lifted_structure"]())]
    for loss in losses:
        for labels in [*layouts, *layouts]:
            order = torch.randperm(12, generator=generator)
            torch.testing.assert_close(loss(rows, labels), loss(rows[order], labels[order]))


def test_what_was_kept_in_inference_mode_serves_training() -> None:
    rows, labels = torch.randn(10, 4), torch.arange(10) // 2
    for loss in (LOSSES["lifted_structure"](), EmbeddingExpansion(LOSSES["lifted_structure"]())):
        with torch.inference_mode():
            expected = loss(rows, labels)
        given = rows.clone().requires_grad_()
        value = loss(given, labels)
        value.backward()
        torch.testing.assert_close(value.detach(), expected)
