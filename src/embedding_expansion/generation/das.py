"""DAS, densely-anchored sampling: label-keeping edits of embeddings join the batch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_number, as_whole, validates
from embedding_expansion.core.inputs import check_classes
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.rows import next_of_class


class DAS(Method, name="das"):
    """Densely-anchored sampling: a loss of the batch and of edited copies of it, which keep their labels.

    A copy of an embedding is multiplied by numbers near 1 in the channels that are most often among the largest ones of
    its class (discriminative feature scaling), and moved by a small multiple of a difference between two embeddings
    of its class, drawn from a queue (memorised transformation shifting). Copies are constants: they pass on no gradient
    of their own, but the embeddings of the batch are compared with them.

    Args:
        loss: a loss that compares embeddings with each other.
        num_classes: the number of training classes.
        embedding_size: dimensions of the embeddings.
        copies: copies of each embedding; 0 is the loss alone.
        channels: channels of a class that are scaled.
        spread: the numbers are drawn from 1 - spread to 1 + spread.
        shift: the multiple of a difference.
        queue: differences kept of each class, the latest ones.

    Source: Liu et al., "Densely-Anchored Sampling for Deep Metric Learning", ECCV 2022, and its program. Differs from
    the source: a difference is kept of each image to the next one of its class in the batch, and not of all pairs, of
    which a queue of this length would keep only some. The copies are made of L2-normalised embeddings where the loss
    normalises, and are normalised again. A class whose queue is empty is not shifted.
    """

    queue: Tensor
    entered: Tensor
    counts: Tensor

    @validates
    def __init__(
        self,
        loss: PairLoss,
        num_classes: int,
        embedding_size: int,
        copies: int = 3,
        channels: int = 4,
        spread: float = 0.01,
        shift: float = 0.01,
        queue: int = 10,
    ) -> None:
        super().__init__(loss)
        classes, size = (
            as_whole(num_classes, "num_classes", least=1),
            as_whole(embedding_size, "embedding_size", least=1),
        )
        self.copies = as_whole(copies, "copies", least=0)
        self.channels = min(as_whole(channels, "channels", least=1), size)
        self.spread, self.shift = as_number(spread, "spread", least=0), as_number(shift, "shift", least=0)
        self.register_buffer("queue", torch.zeros(classes, as_whole(queue, "queue", least=1), size))
        self.register_buffer("entered", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("counts", torch.zeros(classes, size))

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss of the batch and its copies."""
        check_classes(labels, len(self.entered), "num_classes of DAS")
        rows = functional.normalize(embeddings, dim=1) if self.loss.normalize else embeddings
        self._remember(rows.detach(), labels)
        copies = [self._copy(rows.detach(), labels) for _ in range(self.copies)]
        value = self.loss(torch.cat([rows, *copies]), labels.repeat(1 + self.copies))
        return {"metric": Objective(value, (NETWORK, "loss"))}

    def _remember(self, rows: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> None:
        """Counts the largest channels of each row; its difference to the next row of its class enters the queue."""
        largest = torch.zeros_like(rows, dtype=self.counts.dtype)
        largest.scatter_(1, rows.topk(self.channels, dim=1).indices, 1)
        self.counts.index_add_(0, labels, largest)
        row, other, place = next_of_class(labels)
        length, classes = self.queue.shape[1], labels[row]
        size = torch.zeros_like(self.entered).index_add_(0, classes, torch.ones_like(classes))
        last = place >= size[classes] - length  # all of them, unless a class has more rows than the queue has places
        places = (self.entered[classes] + place)[last] % length
        self.queue[classes[last], places] = (rows[other] - rows[row])[last].to(self.queue.dtype)
        self.entered += size

    def _copy(self, rows: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        channels = self.counts[labels].topk(self.channels, dim=1).indices
        factors = 1 + self.spread * (2 * torch.rand_like(channels, dtype=rows.dtype) - 1)
        scaled = rows.scatter(1, channels, rows.gather(1, channels) * factors)
        there = self.entered[labels].clamp(max=self.queue.shape[1])
        drawn = (torch.rand(len(rows), device=rows.device) * there).long()  # an empty queue gives its first row, zeros
        moved = scaled + self.shift * self.queue[labels, drawn].to(rows.dtype)
        return functional.normalize(moved, dim=1) if self.loss.normalize else moved
