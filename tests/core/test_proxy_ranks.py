"""Losses on proxies in two processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from embedding_expansion.core.distributed import DistributedLoss
from ranks import results_of_ranks

from .proxies import SCOPES, proxy_loss, with_scope
from .test_proxy_laws import assert_same, every_case


def whole_batch(scope: str | None) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.tensor([3, 3, 3, 3, 1, 1, 3, 3, 1, 1, 0, 0]), weight


def work(rank: int) -> dict[str, list[Tensor]]:
    results: dict[str, list[Tensor]] = {}
    for name, scope in SCOPES:
        inputs, labels, weight = whole_batch(scope)
        mine = slice(6 * rank, 6 * rank + 6)
        loss = with_scope(proxy_loss(name), scope)
        DistributedLoss(loss)(inputs[mine] @ weight.requires_grad_(), labels[mine]).backward()
        gradients = [parameter.grad for parameter in (weight, *loss.parameters())]
        for gradient in gradients:
            dist.all_reduce(gradient)
        results[f"{name} {scope}"] = [gradient / 2 for gradient in gradients]
    return results


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of_ranks(2, tmp_path_factory.mktemp("two_processes"), work)


@every_case
def test_two_processes_give_the_gradients_of_one(both: list[dict[str, Any]], name: str, scope: str | None) -> None:
    """Averaged over the processes, of the model's weight and of the proxies."""
    inputs, labels, weight = whole_batch(scope)
    loss = with_scope(proxy_loss(name), scope)
    loss(inputs @ weight.requires_grad_(), labels).backward()
    for result in both:
        assert_same(result[f"{name} {scope}"], [parameter.grad for parameter in (weight, *loss.parameters())])
