"""Two gloo processes give the lambda and the gradient of one, for every loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from embedding_expansion import CrossBatchMemory, DistributedLoss, EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pair_loss import PairLoss

from .proxies import EXPANDABLE as PROXY_NAMES
from .proxies import proxy_loss

WORLD = 2
KINDS: dict[str, dict[str, Any]] = {"whole": {}, "negative": {"scope": "negative"}, "blocks": {"chunk": 2}}
CASES = [
    *((name, kind) for name in LOSSES if not LOSSES[name].not_expandable for kind in (*KINDS, "memory")),
    *((name, kind) for name in PROXY_NAMES for kind in KINDS),
]


def case(name: str, kind: str) -> PairLoss:
    loss = proxy_loss(name) if name in PROXY_NAMES else LOSSES[name]()
    loss = EmbeddingExpansion(loss, n=2, balance=True, statistics=True, **KINDS.get(kind, {}))
    return CrossBatchMemory(loss, 4, size=16).double() if kind == "memory" else loss


def trained(mine: slice, loss: torch.nn.Module, average: Any) -> tuple[Tensor, Tensor]:
    """The gradient of two batches of a linear map whose outputs are embedded, and lambda of the last one."""
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    for shift in range(2):
        inputs = torch.randn(12, 6, generator=generator, dtype=torch.float64)
        labels = torch.tensor([3, 3, 3, 3, 1, 1, 3, 3, 1, 1, 2, 2]).roll(2 * shift)
        loss(inputs[mine] @ weight, labels[mine]).backward()
    inner = getattr(loss, "loss", loss) if isinstance(loss, DistributedLoss) else loss
    return average(weight.grad), inner.last_statistics["balance"]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)

    def average(tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor / WORLD

    try:
        mine = slice(6 * rank, 6 * rank + 6)
        results = [trained(mine, DistributedLoss(case(*given)), average) for given in CASES]
        torch.save(results, f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[Tensor, Tensor]]]:
    folder = tmp_path_factory.mktemp("two_processes")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD, join=True)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_two_processes_give_the_lambda_and_the_gradient_of_one(
    ranks: list[list[tuple[Tensor, Tensor]]], name: str, kind: str
) -> None:
    gradient, share = trained(slice(None), case(name, kind), lambda tensor: tensor)
    for rank in ranks:
        found = rank[CASES.index((name, kind))]
        torch.testing.assert_close(found[1], share, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found[0], gradient, rtol=1e-6, atol=1e-8)
