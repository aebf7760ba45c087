"""Several processes that train together, as torchrun starts them; a single process is the case of one rank.

All that ranks tell each other goes over gloo, also beside NCCL: gloo notices at once when a process ends, and gives up
on one that is silent with an error that can be told. Only gradients and the rows of the loss go over NCCL on GPUs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, RunError

#: How long a rank waits for another that says nothing: 2 minutes, or the seconds in $EMBEX_RANK_PATIENCE.
PATIENCE = timedelta(minutes=2)
#: How long the others wait while the first one evaluates and saves. When it ends meanwhile, they know at once.
ALONE = timedelta(hours=6)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1
    talk: Any = None  # over gloo, for what is not of the gradient
    slow: Any = None  # the same, with patience for what the first rank does alone

    @classmethod
    def start(cls, device: torch.device) -> Ranks:
        """Joins the group that torchrun describes in the environment, or is alone where it describes none.

        Raises:
            InvalidInput: the patience is no number of seconds.
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
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The rows of the global batch that are this rank's.

        Raises:
            InvalidInput: the batch cannot be divided evenly.
        """
        if batch % self.world:
            raise InvalidInput(f"a batch of {batch} cannot be divided by {self.world} processes; change the sampler")
        part = batch // self.world
        return slice(self.rank * part, (self.rank + 1) * part)

    def wrap(self, network: nn.Module, loss: PairLoss) -> tuple[nn.Module, nn.Module]:
        """The network and the loss as they are called in a step: with gradients averaged over the ranks.

        On GPUs batch norm takes its statistics over all ranks.
        """
        if self.world == 1:
            return network, loss
        if next(network.parameters()).is_cuda and learns_statistics(network):
            network = synchronize_batch_norm(network)
        shared: nn.Module = DistributedLoss(loss)
        if any(parameter.requires_grad for parameter in loss.parameters()):  # what the loss learns, on all ranks alike
            shared = DistributedDataParallel(shared, broadcast_buffers=False)  # all ranks fill a memory alike
        return DistributedDataParallel(network), shared

    def agree(self, value: int) -> int:
        """The largest value of any rank: a signal that one of them got reaches all at the same step."""
        if self.world == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.talk)
        return int(shared)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.talk)
        return values

    def mean(self, value: float) -> float:
        """The mean over the ranks."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(shared, group=self.talk)
        return float(shared) / self.world

    def same(self, value: Any) -> Any:
        """The first rank's value, on all of them. They wait for it as long as an evaluation may take."""
        if self.world == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0, group=self.slow)
        return holder[0]

    def by_first(self, work: Callable[[], object]) -> None:
        """The first rank does something, and the others wait until it is done; its error is raised on all of them."""
        failed: Exception | None = None
        if self.is_first:
            try:
                work()
            except (EmbeddingExpansionError, OSError) as error:
                failed = error
        said = self.same(None if failed is None else str(failed))
        if said is not None:
            raise failed or RunError(said)


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
            f"EMBEX_RANK_PATIENCE is {given!r}; give the seconds that a process waits for another, 1 to "
            f"{ALONE.total_seconds():g}"
        )
    return timedelta(seconds=seconds)


def learns_statistics(network: nn.Module) -> bool:
    """Whether batch norm in this network takes the statistics of the batch, in the mode that it is in."""
    return any(_is_batch_norm(module) and module.training for module in network.modules())


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """The same network and parameters, its batch norm over the batches of all processes; for GPUs.

    Source: `torch.nn.SyncBatchNorm`; layers of timm that have an activation within keep it.
    """
    if any(type(module).__module__.startswith("timm.") for module in network.modules() if _is_batch_norm(module)):
        from timm.layers import convert_sync_batchnorm
    else:
        convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def batch_norm_warning(network: nn.Module, device: torch.device, world: int, batch: int) -> str:
    """What to tell the user of batch norm, or nothing."""
    if world == 1 or device.type == "cuda" or not learns_statistics(network):
        return ""
    return (
        f"note: on the CPU batch norm takes its statistics over the {batch // world} images of each process, not over "
        f"the batch of {batch}, so that the result is not that of 1 process; --model.freeze_batch_norm true avoids it"
    )


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
