"""Batch norm over several processes: statistics of the whole batch on GPUs, or a warning on the CPU."""

from __future__ import annotations

import torch
from torch import nn


def learns_statistics(network: nn.Module) -> bool:
    """Whether batch norm in this network takes the statistics of the batch, in the mode that it is in."""
    return any(_is_batch_norm(module) and module.training for module in network.modules())


def synchronize(network: nn.Module) -> nn.Module:
    """The same network and parameters, its batch norm over the batches of all processes; for GPUs.

    Source: `torch.nn.SyncBatchNorm`; layers of timm that have an activation within keep it.
    """
    if any(type(module).__module__.startswith("timm.") for module in network.modules() if _is_batch_norm(module)):
        from timm.layers import convert_sync_batchnorm
    else:
        convert_sync_batchnorm = nn.SyncBatchNorm.convert_sync_batchnorm
    converted: nn.Module = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted


def warning(network: nn.Module, device: torch.device, world: int, batch: int) -> str:
    """What to tell the user of batch norm, or nothing."""
    if world == 1 or device.type == "cuda" or not learns_statistics(network):
        return ""
    return (
        f"note: on the CPU batch norm takes its statistics over the {batch // world} images of each process, not over "
        f"the batch of {batch}, so that the result is not that of 1 process; --model.freeze_batch_norm true avoids it"
    )


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
