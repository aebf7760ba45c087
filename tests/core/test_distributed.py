"""Two gloo processes, each with its own rows, give the value and the gradient that one process gives for all of them.

A linear map stands for the model; each process embeds its own rows and its gradient is averaged over the processes, as
DistributedDataParallel does. All cases run in one pair of processes, since starting a process is what takes the time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from ranks import results_of_ranks

WORLD = 2
SCOPES = [None, "class_pair", "anchor", "negative"]
IN_BLOCKS = ("multi_similarity", "lifted_structure", "histogram")  # plain, reads partners, has a statistic
CASES = [
    (name, scope, kind)
    for name in LOSSES
    for scope in SCOPES
    for kind in ("mixed", "apart", "blocks")
    if (scope is None or not LOSSES[name].not_expandable) and (kind != "blocks" or name in IN_BLOCKS)
]


def loss_for(name: str, scope: str | None, kind: str = "mixed") -> torch.nn.Module:
    loss = LOSSES[name](chunk=4 if kind == "blocks" else None)
    return loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope)


def whole_batch(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and the model's weight.

    mixed: classes reach over both processes; apart: each process has classes of its own; blocks: mixed, four anchors at
    a time.
    """
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels = [7, 7, 7, 7, 1, 1] + ([7, 7, 1, 1, 3, 3] if kind != "apart" else [3, 3, 4, 4, 4, 4])
    return inputs, torch.tensor(labels), weight


def work(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, scope, kind in CASES:
        inputs, labels, weight = whole_batch(kind)
        mine = slice(6 * rank, 6 * rank + 6)
        weight.requires_grad_()
        value = DistributedLoss(loss_for(name, scope, kind))(inputs[mine] @ weight, labels[mine])
        value.backward()
        gradient = weight.grad.clone()
        dist.all_reduce(gradient)
        results[f"{name} {scope} {kind}"] = (value.detach(), gradient / WORLD)
    return results


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of_ranks(WORLD, tmp_path_factory.mktemp("two_processes"), work)


@pytest.mark.parametrize(("name", "scope", "kind"), CASES)
def test_two_processes_give_the_gradient_of_one(
    both: list[dict[str, Any]], name: str, scope: str | None, kind: str
) -> None:
    inputs, labels, weight = whole_batch(kind)
    value = loss_for(name, scope)(inputs @ weight.requires_grad_(), labels)
    value.backward()
    values, gradients = zip(*(result[f"{name} {scope} {kind}"] for result in both), strict=True)
    assert sum(v.item() for v in values) / WORLD == pytest.approx(value.item(), rel=1e-9)
    for gradient in gradients:
        torch.testing.assert_close(gradient, weight.grad, rtol=1e-7, atol=1e-8)


def test_without_a_process_group_it_is_the_wrapped_loss() -> None:
    inputs, labels, weight = whole_batch("mixed")
    for scope in SCOPES:
        loss = loss_for("triplet", scope)
        assert torch.equal(DistributedLoss(loss)(inputs @ weight, labels), loss(inputs @ weight, labels))
