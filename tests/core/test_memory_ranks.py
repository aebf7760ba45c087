"""Two gloo processes with a memory hold the same queue, and give the gradient of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.memory import CrossBatchMemory
from ranks import results_of_ranks

from . import oracles

WORLD = 2
IN_BLOCKS = ("multi_similarity", "lifted_structure", "histogram")
CASES = [
    (name, scope, chunk) for name, scope in oracles.CASES for chunk in (None, 3) if chunk is None or name in IN_BLOCKS
]


def case(name: str, scope: str | None, chunk: int | None) -> CrossBatchMemory:
    loss = LOSSES[name](chunk=chunk)
    loss = loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope)
    return CrossBatchMemory(loss, 4, size=20, start=1).double()


def trained(step: Any, loss: torch.nn.Module, average: Any) -> tuple[Tensor, Tensor]:
    """The value of the last of three batches and the gradient of all, of a linear map whose outputs are embedded."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    for shift in range(3):
        inputs = torch.randn(12, 6, generator=generator, dtype=torch.float64)
        labels = torch.tensor([7, 7, 7, 7, 1, 1, 7, 7, 1, 1, 3, 3]).roll(2 * shift)
        value = loss(inputs[step] @ weight, labels[step])
        value.backward()
    return average(value.detach()), average(weight.grad)


def average(tensor: Tensor) -> Tensor:
    dist.all_reduce(tensor)
    return tensor / WORLD


def work(rank: int) -> list[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    results = []
    for given in CASES:
        loss = case(*given)
        results.append((*trained(slice(6 * rank, 6 * rank + 6), DistributedLoss(loss), average), loss.state_dict()))
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[Tensor, Tensor, dict[str, Tensor]]]]:
    return results_of_ranks(WORLD, tmp_path_factory.mktemp("two_processes"), work)


@pytest.mark.parametrize(("name", "scope", "chunk"), CASES)
def test_two_processes_hold_the_same_queue_and_give_the_gradient_of_one(
    ranks: list[list[tuple[Tensor, Tensor, dict[str, Tensor]]]], name: str, scope: str | None, chunk: int | None
) -> None:
    loss = case(name, scope, chunk)
    expected = trained(slice(None), loss, lambda tensor: tensor)
    first, second = (rank[CASES.index((name, scope, chunk))] for rank in ranks)
    for value, gradient, queue in (first, second):
        torch.testing.assert_close((value, gradient), expected, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(queue, dict(loss.state_dict()), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(tensor, second[2][key]) for key, tensor in first[2].items())
    assert (int(loss.entered), int(loss.batches)) == (36, 3)
