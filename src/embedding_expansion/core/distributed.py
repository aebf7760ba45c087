"""One loss over a batch that is spread over processes: every rank sees all embeddings, and anchors its own."""

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
    """The sum over ranks of what each has; its gradient is the sum of what every rank's share of the loss asks for."""

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        of_all: Tensor = _Sum.apply(gradient)
        return of_all


class _Gather(torch.autograd.Function):
    """Concatenate every rank's rows; in the backward pass each rank's rows collect their gradient from all ranks."""

    @staticmethod
    def forward(ctx: FunctionCtx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        of_all: Tensor = _Sum.apply(gradient)
        return of_all.chunk(dist.get_world_size())[dist.get_rank()]


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
        if loss.indivisible:
            raise InvalidInput(f"ranks cannot share this loss: {loss.indivisible}")
        if loss.reduction != "mean":
            raise InvalidInput(
                f"a distributed loss is a mean over ranks, but the loss has reduction={loss.reduction!r}"
            )
        if loss.ignore_index is not None:
            raise InvalidInput(
                "ignore_index would leave the ranks with batches of different sizes; drop such rows before"
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
        labels: Labels = None,  # type: ignore[assignment]  # the loss refuses None in a sentence
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Float[Tensor, "g d"] | None = None,
        ref_labels: Labels | None = None,
        *,
        reference: Float[Tensor, "g d"] | None = None,
        reference_labels: Labels | None = None,
    ) -> Float[Tensor, ""]:
        """This rank's share of the loss, on the scale that averaging over ranks expects.

        Args:
            embeddings: (b, d), of this rank.
            labels: (b,), of this rank.
            indices_tuple: as in `PairLoss.forward`. Rows of other ranks are chosen as pytorch-metric-learning's
                DistributedMinerWrapper does: this rank's rows come first, then those of the others in their order. Of
                the pairs those count whose anchor is one of this rank; losses that read both ends of a positive pair
                (lifted structure, angular) need those of all anchors, efficient=False there.
            ref_emb: another name of `reference`.
            ref_labels: another name of `reference_labels`.
            reference: (g, d), of this rank; the anchors are compared with the references of all ranks.
            reference_labels: (g,), of this rank.
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
    """The arguments with the rows of all ranks, in the order of ranks, of which this rank's are the anchors."""
    b, rank, chosen = len(inputs.labels), dist.get_rank(), inputs.chosen
    embeddings, labels = _gathered(inputs.embeddings, inputs.labels, "")
    reference, reference_labels, g = None, None, b
    if inputs.reference is not None and inputs.reference_labels is not None:
        g = len(inputs.reference)
        reference, reference_labels = _gathered(inputs.reference, inputs.reference_labels, " of the reference")
    if chosen is not None:
        anchors, of_negatives = (_in_order_of_ranks(index, b, rank) for index in (chosen.anchors, chosen.of_negatives))
        positives, negatives = (_in_order_of_ranks(index, g, rank) for index in (chosen.positives, chosen.negatives))
        chosen = ChosenPairs(anchors, positives, of_negatives, negatives)
    rows = torch.arange(b, device=labels.device) + b * rank
    return Inputs(embeddings, labels, rows, None, reference, reference_labels, chosen)


def _gathered(
    rows: Float[Tensor, "b d"], labels: Int[Tensor, " b"], of: str
) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
    """The rows of every rank, with gradient, and their labels."""
    _check_equal(len(labels), labels.device, of)
    parts = [torch.empty_like(labels) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, labels.contiguous())
    return _Gather.apply(rows), torch.cat(parts)


def _in_order_of_ranks(index: Int[Tensor, " k"], count: int, rank: int) -> Int[Tensor, " k"]:
    """Rows that are counted with this rank's first, counted in the order of ranks; each rank has `count`."""
    own, before = (index >= 0) & (index < count), (index >= count) & (index < (rank + 1) * count)
    return torch.where(own, index + rank * count, torch.where(before, index - count, index))


def _check_equal(b: int, device: torch.device, of: str) -> None:
    """Raise InvalidInput on every rank where the ranks' batches differ in size, rather than hang in the gather."""
    sizes = torch.tensor([b, -b], device=device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX)
    if int(sizes[0]) != -int(sizes[1]):
        raise InvalidInput(
            f"the ranks bring between {-int(sizes[1])} and {int(sizes[0])} rows{of}, this one {b}; give every rank as "
            "many"
        )
