"""Losses on proxies in two processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from embedding_expansion.core.distributed import DistributedLoss

from .proxies import SCOPES, proxy_loss, with_scope
from .test_proxy_laws import assert_same, every_case


def whole_batch(scope: str | None) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.tensor([3, 3, 3, 3, 1, 1, 3, 3, 1, 1, 0, 0]), weight


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        results: dict[str, Any] = {}
        for name, scope in SCOPES:
            inputs, labels, weight = whole_batch(scope)
            mine = slice(6 * rank, 6 * rank + 6)
            loss = with_scope(proxy_loss(name), scope)
            DistributedLoss(loss)(inputs[mine] @ weight.requires_grad_(), labels[mine]).backward()
            gradients = [parameter.grad for parameter in (weight, *loss.parameters())]
            for gradient in gradients:
                dist.all_reduce(gradient)
            results[f"{name} {scope}"] = [gradient / 2 for gradient in gradients]
        torch.save(results, f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two_processes")
    mp.spawn(work, args=(str(folder),), nprocs=2, join=True)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@every_case
def test_two_processes_give_the_gradients_of_one(both: list[dict[str, Any]], name: str, scope: str | None) -> None:
    """Averaged over the processes, of the model's weight and of the proxies."""
    inputs, labels, weight = whole_batch(scope)
    loss = with_scope(proxy_loss(name), scope)
    loss(inputs @ weight.requires_grad_(), labels).backward()
    for result in both:
        assert_same(result[f"{name} {scope}"], [parameter.grad for parameter in (weight, *loss.parameters())])
