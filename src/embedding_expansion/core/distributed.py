"""A loss over a batch that is spread over processes. Every rank sees all embeddings; its rows are the anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from embedding_expansion.core.batch import Inputs
from embedding_expansion.core.chosen import ChosenPairs, IndicesTuple
from embedding_expansion.core.inputs import Labels, one_reference, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput, InvalidType

if TYPE_CHECKING:
    from embedding_expansion.core.pair_loss import Scalar


class _Sum(torch.autograd.Function):
    """The sum of a tensor over ranks. Its backward pass sums the gradients of all ranks."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        of_all: Tensor = _Sum.apply(gradient)
        return of_all


class _Gather(torch.autograd.Function):
    """Concatenates the rows of all ranks. Its backward pass sums each rank's gradient over all ranks."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        of_all: Tensor = _Sum.apply(gradient)
        return of_all.chunk(dist.get_world_size())[dist.get_rank()]


class DistributedLoss(nn.Module):
    """The loss of a batch that is spread over several ranks. Each rank computes the terms of its rows.

    The value on a rank is world size x total of this rank / weight of all ranks. Averaging the gradients over ranks, as
    DistributedDataParallel does, then gives the gradients of a single process on the whole batch. A statistic of the
    batch (histogram, intra-pair variance) is summed over ranks, with gradient. Without a process group the value is
    that of the given loss.

    Args:
        loss: a pair loss or `EmbeddingExpansion`, with reduction "mean".

    Shapes: embeddings (b, d) and labels (b,) of this rank; b is the same on every rank.

    Raises:
        InvalidType: if the loss is not a pair loss of this package.
        InvalidInput: if its reduction is "none", or the ranks have batches of different sizes.

    Source: a gather with gradient is common practice. A gather without gradient, or a mean of the means of the ranks,
    would optimise something other than the loss of the whole batch.
    """

    @validates
    def __init__(self, loss: PairLoss) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss):
            raise InvalidType(f"loss is a {type(loss).__name__}; pass an instance of one of this package's pair losses")
        if loss.indivisible:
            raise InvalidInput(f"ranks cannot share this loss: {loss.indivisible}")
        if loss.reduction != "mean":
            raise InvalidInput(
                f"a distributed loss is a mean over ranks, but the loss has reduction={loss.reduction!r}"
            )
        if loss.ignore_index is not None:
            raise InvalidInput(
                "ignore_index would leave the ranks with batches of different sizes; remove such rows before the call"
            )
        self.loss = loss

    if TYPE_CHECKING:

        def __call__(  # noqa: D102
            self,
            embeddings: Tensor,
            labels: Labels,
            indices_tuple: tuple[Tensor, ...] | None = None,
            ref_emb: Tensor | None = None,
            ref_labels: Labels | None = None,
            *,
            reference: Tensor | None = None,
            reference_labels: Labels | None = None,
        ) -> Scalar: ...

    @validates
    def forward(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Labels = None,  # type: ignore[assignment]  # the loss raises a readable error for None
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Float[Tensor, "g d"] | None = None,
        ref_labels: Labels | None = None,
        *,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
    ) -> Float[Tensor, ""]:
        """Computes this rank's share of the loss, scaled for gradients that are averaged over ranks.

        Args:
            embeddings: (b, d), the embeddings of this rank.
            labels: (b,), the labels of this rank.
            indices_tuple: as in `PairLoss.forward`. Rows of all ranks are numbered as in pytorch-metric-learning's
                DistributedMinerWrapper: first the rows of this rank, then those of the others in the order of the
                ranks. Only pairs whose anchor is a row of this rank count. Losses that read both ends of a positive
                pair (lifted structure, angular) need the pairs of all anchors; pass efficient=False to the wrapper for
                them.
            ref_emb: another name of `reference`.
            ref_labels: another name of `reference_labels`.
            reference: (g, d), the reference of this rank. The anchors are compared with the references of all ranks.
            reference_labels: (g,), the labels of the reference of this rank.
        """
        theirs = indices_tuple, ref_emb, ref_labels
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            value: Tensor = self.loss(
                embeddings, labels, *theirs, reference=reference, reference_labels=reference_labels
            )
            return value
        if ref_emb is not None or ref_labels is not None:
            reference, reference_labels = one_reference(ref_emb, ref_labels, reference, reference_labels)
        inputs = Inputs.checked(embeddings, labels, None, None, reference, reference_labels, indices_tuple)
        world = dist.get_world_size()
        terms = self.loss.terms_of(self.loss.batch(_of_all_ranks(inputs)), across=_Sum.apply)
        weight = terms.weight.sum(dim=1)
        dist.all_reduce(weight)
        return world * (terms.total.sum(dim=1) * torch.where(weight > 0, 1 / weight, 0)).sum()


def _of_all_ranks(inputs: Inputs) -> Inputs:
    """The arguments with the rows of all ranks, in the order of the ranks. The rows of this rank are the anchors."""
    b, rank, chosen = len(inputs.labels), dist.get_rank(), inputs.chosen
    embeddings, labels = gathered(inputs.embeddings, inputs.labels, "")
    reference, reference_labels, g = None, None, b
    if inputs.reference is not None and inputs.reference_labels is not None:
        g = len(inputs.reference)
        reference, reference_labels = gathered(inputs.reference, inputs.reference_labels, " of the reference")
    if chosen is not None:
        anchors, of_negatives = (_in_order_of_ranks(index, b, rank) for index in (chosen.anchors, chosen.of_negatives))
        positives, negatives = (_in_order_of_ranks(index, g, rank) for index in (chosen.positives, chosen.negatives))
        chosen = ChosenPairs(anchors, positives, of_negatives, negatives)
    rows = torch.arange(b, device=labels.device) + b * rank
    return Inputs(embeddings, labels, rows, None, reference, reference_labels, chosen)


def gathered(
    rows: Float[Tensor, "b d"], labels: Int[Tensor, " b"], of: str
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """The rows of every rank, with gradient, and their labels."""
    _check_equal(len(labels), labels.device, of)
    parts = [torch.empty_like(labels) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, labels.contiguous())
    return _Gather.apply(rows), torch.cat(parts)


def _in_order_of_ranks(index: Int[Tensor, " k"], count: int, rank: int) -> Int[Tensor, " k"]:
    """Converts row indices that count this rank's rows first to the order of ranks; each rank has `count` rows."""
    of_this, before = (index >= 0) & (index < count), (index >= count) & (index < (rank + 1) * count)
    return torch.where(of_this, index + rank * count, torch.where(before, index - count, index))


def _check_equal(b: int, device: torch.device, of: str) -> None:
    """Raises InvalidInput on every rank if the batches of the ranks differ in size. The gather would hang."""
    sizes = torch.tensor([b, -b], device=device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX)
    if int(sizes[0]) != -int(sizes[1]):
        raise InvalidInput(
            f"the ranks have between {-int(sizes[1])} and {int(sizes[0])} rows{of}, this one has {b}; pass the same "
            "number of rows on every rank"
        )
