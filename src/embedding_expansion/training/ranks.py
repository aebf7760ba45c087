"""Processes that train together, started by torchrun. A single process is a group of one rank.

Control messages between ranks use gloo, even on GPUs: gloo notices at once when a process ends, and raises a clear
error when a process does not respond. Only gradients and the embeddings of the loss use NCCL on GPUs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from embedding_expansion.core.distributed import DistributedLoss, gathered
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, RunError
from embedding_expansion.generation.method import Method

#: How long a rank waits for another one that does not respond: 2 minutes, or $EMBEX_RANK_PATIENCE seconds.
PATIENCE = timedelta(minutes=2)
#: How long the other ranks wait while the first rank evaluates and saves. They notice at once if it ends.
ALONE = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """The group of processes, and the rank of this process."""

    rank: int = 0
    world: int = 1
    talk: Any = None  # gloo group for control messages
    slow: Any = None  # gloo group with a long timeout, for work of the first rank alone

    @classmethod
    def start(cls, device: torch.device) -> Ranks:
        """Joins the group that torchrun describes in the environment; without one, this process is alone.

        Raises:
            InvalidInput: $EMBEX_RANK_PATIENCE is not a valid number of seconds.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        patience = _patience()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        if not dist.is_initialized():
            dist.init_process_group(backend, timeout=patience)
        talk, slow = (dist.new_group(backend="gloo", timeout=timeout) for timeout in (patience, ALONE))
        return cls(int(os.environ["RANK"]), world, talk, slow)

    def stop(self) -> None:
        """Leaves the group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is the first rank, which writes and prints."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """This rank's rows of the global batch.

        Raises:
            InvalidInput: the batch cannot be divided evenly.
        """
        if batch % self.world:
            raise InvalidInput(f"a batch of {batch} cannot be divided by {self.world} processes; change the sampler")
        part = batch // self.world
        return slice(self.rank * part, (self.rank + 1) * part)

    def wrap(self, network: nn.Module, loss: PairLoss | Method) -> tuple[nn.Module, nn.Module]:
        """Wraps network and loss for a training step, with gradients averaged over the ranks.

        On GPUs, batch norm statistics are synchronised over all ranks. With a method nothing is wrapped, because
        DistributedDataParallel takes one gradient of a step; see `gather_batch` and `average_gradients`.
        """
        if self.world == 1:
            return network, loss
        if next(network.parameters()).is_cuda and learns_statistics(network):
            network = synchronize_batch_norm(network)
        if isinstance(loss, Method):
            self.share_first([*network.state_dict().values(), *loss.state_dict().values()])
            return network, loss
        shared: nn.Module = DistributedLoss(loss)
        if any(parameter.requires_grad for parameter in loss.parameters()):  # which stay equal on all ranks
            shared = DistributedDataParallel(shared, broadcast_buffers=False)  # all ranks fill their memory equally
        return DistributedDataParallel(network), shared

    def share_first(self, tensors: Iterable[Tensor]) -> None:
        """Replaces tensors by those of the first rank."""
        for tensor in tensors if self.world > 1 else ():
            shared = tensor.detach().contiguous()  # convolutions are stored channels last
            dist.broadcast(shared, 0)
            tensor.detach().copy_(shared)

    def gather_batch(self, labels: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
        """The rows of all ranks with gradient, and then the labels of all ranks.

        Every rank computes the objectives of the whole batch. The gradient that reaches its own rows is then the sum of
        those of all ranks, and so `average_gradients` gives that of one process.
        """
        if self.world == 1:
            return *rows, labels
        found = [gathered(each, labels, "") for each in rows]
        return *(each for each, _ in found), found[0][1]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients over the ranks, which have them of the same parameters."""
        for parameter in parameters if self.world > 1 else ():
            if parameter.grad is not None:
                shared = parameter.grad.contiguous()
                dist.all_reduce(shared)
                parameter.grad.copy_(shared / self.world)

    def maximum(self, value: int) -> int:
        """The maximum over all ranks. It makes all ranks react to a signal at the same step."""
        if self.world == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.talk)
        return int(shared)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.talk)
        return values

    def average(self, value: float) -> float:
        """The mean over all ranks."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(shared, group=self.talk)
        return float(shared) / self.world

    def broadcast(self, value: Any) -> Any:
        """The first rank's value, on every rank. The timeout allows for a long evaluation."""
        if self.world == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0, group=self.slow)
        return holder[0]

    def on_first(self, work: Callable[[], object]) -> None:
        """Runs work on the first rank while the others wait. An error is raised on all ranks."""
        failed: Exception | None = None
        if self.is_first:
            try:
                work()
            except (EmbeddingExpansionError, OSError) as error:
                failed = error
        message = self.broadcast(None if failed is None else str(failed))
        if message is not None:
            raise failed or RunError(message)


def _patience() -> timedelta:
    given = os.environ.get("EMBEX_RANK_PATIENCE")
    if given is None:
        return PATIENCE
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= ALONE.total_seconds():
        raise InvalidInput(
            f"EMBEX_RANK_PATIENCE is {given!r}; set it to the seconds that a process waits for another one, 1 to "
            f"{ALONE.total_seconds():g}"
        )
    return timedelta(seconds=seconds)


def learns_statistics(network: nn.Module) -> bool:
    """Whether a batch norm layer of this network is in training mode, so that it uses batch statistics."""
    return any(_is_batch_norm(module) and module.training for module in network.modules())


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """Converts batch norm to synchronised batch norm, for GPUs. Parameters stay the same.

    Source: `torch.nn.SyncBatchNorm`. timm's layers with a built-in activation keep it.
    """
    if any(type(module).__module__.startswith("timm.") for module in network.modules() if _is_batch_norm(module)):
        from timm.layers import convert_sync_batchnorm
    else:
        convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def batch_norm_warning(network: nn.Module, device: torch.device, world: int, batch: int) -> str:
    """A warning for the user about batch norm, or an empty string."""
    if world == 1 or device.type == "cuda" or not learns_statistics(network):
        return ""
    return (
        f"note: on the CPU, batch norm uses the statistics of the {batch // world} images of each process, not of the "
        f"batch of {batch}, so results differ from those of 1 process; --model.freeze_batch_norm true avoids this"
    )


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
