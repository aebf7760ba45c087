"""Several processes that train together, as torchrun starts them; a single process is the case of one rank."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput

PATIENCE = timedelta(hours=6)  # the other ranks wait while the first one evaluates


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1

    @classmethod
    def start(cls, device: torch.device) -> Ranks:
        """Joins the group that torchrun describes in the environment, or is alone where it describes none."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        return cls(int(os.environ["RANK"]), world)

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
        """The network and the loss as they are called in a step: with gradients averaged over the ranks."""
        if self.world == 1:
            return network, loss
        shared: nn.Module = DistributedLoss(loss)
        if any(parameter.requires_grad for parameter in loss.parameters()):  # what the loss learns, on all ranks alike
            shared = DistributedDataParallel(shared, broadcast_buffers=False)  # all ranks fill a memory alike
        return DistributedDataParallel(network), shared

    def agree(self, value: int) -> int:
        """The largest value of any rank: a signal that one of them got reaches all at the same step."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def mean(self, value: float) -> float:
        """The mean over the ranks."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(shared)
        return float(shared) / self.world

    def same(self, value: Any) -> Any:
        """The first rank's value, on all of them."""
        if self.world == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]
