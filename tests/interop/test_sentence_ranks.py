"""A sentence loss over two gloo processes, its model wrapped as the trainer wraps it, gives the gradient of one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import MultiSimilarityLoss
from embedding_expansion.interop.sentence_transformers import SentenceLoss
from ranks import results_of_ranks

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


def work(rank: int) -> Tensor:
    model = Embedder()
    mine = columns()[:, rank * ROWS : (rank + 1) * ROWS]
    # Each column is a forward pass: no buffers are broadcast in between, as the library's trainer sets it.
    loss = loss_of(DistributedDataParallel(model, broadcast_buffers=False))
    loss([{"x": column} for column in mine], None).backward()
    return model.linear.weight.grad


def test_two_processes_without_labels_give_the_gradient_of_one(tmp_path: Path) -> None:
    model = Embedder()
    loss_of(model)([{"x": column} for column in columns()], None).backward()
    for gradient in results_of_ranks(WORLD, tmp_path, work):
        torch.testing.assert_close(gradient, model.linear.weight.grad, rtol=1e-7, atol=1e-9)
