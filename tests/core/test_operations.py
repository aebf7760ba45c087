"""How many operations a step dispatches, and that none of them depends on data where the labels are on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from embedding_expansion import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES
from embedding_expansion.core.losses.pairwise import LIMIT
from embedding_expansion.core.losses.triplet import ROWS
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.search import native
from embedding_expansion.forms import SCOPES

# An older torch divides some functions into other operations, and its fake CUDA tensors end a process without CUDA.
LOWEST = 2, 13
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < LOWEST, reason="operations are those of torch 2.13 or later"
)
B, K = 1024, 4
FEW, MANY = 60, 90
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
