"""Groups of processes for the tests of several ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from forked import fork_server


def results_of_ranks(world: int, folder: Path, work: Callable[..., Any], *given: Any) -> list[Any]:
    """What `work(rank, *given)` returns on each rank of a group of processes on gloo, each with one thread."""
    fork_server()
    mp.start_processes(_run, args=(world, str(folder), work, given), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


def _run(rank: int, world: int, folder: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        torch.save(work(rank, *given), f"{folder}/rank{rank}.pt")
    finally:
        dist.destroy_process_group()
