"""A sentence loss over two gloo processes, its model wrapped as the trainer wraps it, gives the gradient of one."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import MultiSimilarityLoss
from embedding_expansion.interop.sentence_transformers import SentenceLoss

WORLD, ROWS = 2, 4


class Embedder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(3, 6, generator=torch.Generator().manual_seed(3)))
            self.linear.bias.zero_()

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.linear(features["x"])}


def columns() -> Tensor:
    """Two columns of texts, anchors and positives, of both processes."""
    return torch.randn(2, WORLD * ROWS, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def loss_of(model: nn.Module) -> SentenceLoss:
    return SentenceLoss(model, DistributedLoss(EmbeddingExpansion(MultiSimilarityLoss(), n=2)))


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    try:
        model = Embedder()
        mine = columns()[:, rank * ROWS : (rank + 1) * ROWS]
        # Each column is a forward pass: no buffers are broadcast in between, as the library's trainer sets it.
        loss = loss_of(DistributedDataParallel(model, broadcast_buffers=False))
        loss([{"x": column} for column in mine], None).backward()
        torch.save(model.linear.weight.grad, f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_without_labels_give_the_gradient_of_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("two_processes")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD, join=True)
    model = Embedder()
    loss_of(model)([{"x": column} for column in columns()], None).backward()
    for rank in range(WORLD):
        gradient = torch.load(folder / f"rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(gradient, model.linear.weight.grad, rtol=1e-7, atol=1e-9)
