"""One loss over a batch that is spread over processes: every rank sees all embeddings, and anchors its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from embedding_expansion.core.inputs import Labels, as_batch, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput, InvalidType


class _Gather(torch.autograd.Function):
    """Concatenate every rank's rows; in the backward pass each rank's rows collect their gradient from all ranks."""

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


class _Sum(torch.autograd.Function):
    """The sum over ranks of what each has; its gradient is the sum of what every rank's share of the loss asks for."""

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


class DistributedLoss(nn.Module):
    """The loss of the whole batch, each rank adding the terms of its own rows.

    The value is world size x this rank's total / the weight of all ranks, so that gradients averaged over the ranks, as
    DistributedDataParallel does, are those of one process on the whole batch. A statistic of the batch (histogram,
    intra-pair variance) is summed over the ranks, with gradient. Without a process group it is the loss.

    Args:
        loss: a pair loss or `EmbeddingExpansion`, with reduction "mean".

    Shapes: embeddings (b, d) and labels (b,) of this rank; b is the same on every rank.

    Raises:
        InvalidType: if the loss is none of ours.
        InvalidInput: if its reduction is "none", or the ranks bring batches of different sizes.

    Source: the gather with gradient is common practice; what it mends is that a gather without gradient, or a mean of
    the ranks' means, trains something else than the loss of the batch.
    """

    @validates
    def __init__(self, loss: PairLoss) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss):
            raise InvalidType(f"loss is a {type(loss).__name__}; pass an instance of one of this package's pair losses")
        if loss.undivided:
            raise InvalidInput(f"ranks cannot share this loss: {loss.undivided}")
        if loss.reduction != "mean":
            raise InvalidInput(
                f"a distributed loss is a mean over ranks, but the loss has reduction={loss.reduction!r}"
            )
        if loss.ignore_index is not None:
            raise InvalidInput(
                "ignore_index would leave the ranks with batches of different sizes; drop such rows before"
            )
        self.loss = loss

    @validates
    def forward(self, embeddings: Float[Tensor, "b d"], labels: Labels) -> Float[Tensor, ""]:
        """This rank's share of the loss, on the scale that averaging over ranks expects."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            value: Tensor = self.loss(embeddings, labels)
            return value
        embeddings, labels = as_batch(embeddings, labels)
        b, world = len(labels), dist.get_world_size()
        _check_equal(b, embeddings.device)
        parts = [torch.empty_like(labels) for _ in range(world)]
        dist.all_gather(parts, labels.contiguous())
        rows = torch.arange(b, device=labels.device) + b * dist.get_rank()
        batch = self.loss.batch(_Gather.apply(embeddings), torch.cat(parts), rows, None, None, None)
        terms = self.loss.terms_of(batch, across=_Sum.apply)
        weight = terms.weight.sum(dim=1)
        dist.all_reduce(weight)
        return world * (terms.total.sum(dim=1) * torch.where(weight > 0, 1 / weight, 0)).sum()


def _check_equal(b: int, device: torch.device) -> None:
    """Raise InvalidInput on every rank where the ranks' batches differ in size, rather than hang in the gather."""
    sizes = torch.tensor([b, -b], device=device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX)
    if int(sizes[0]) != -int(sizes[1]):
        raise InvalidInput(
            f"the ranks bring between {-int(sizes[1])} and {int(sizes[0])} rows, this one {b}; give every rank as many"
        )
