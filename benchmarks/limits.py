"""Run work in a separate process with limits on time and memory; exceeding a limit is a result as well."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

STARTING = "start"
GRACE = 120.0  # seconds for a process to start and to import torch, before its first beat
OUT_OF_MEMORY = "out of memory"

Beat = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    seconds: float = 60.0  # between two beats
    gigabytes: float = 12.0  # address space, beyond that of the process at its start


@dataclass(frozen=True)
class Ended:
    """How the work ended: with a result, or with the reason why not and the stage."""

    result: Any = None
    why_not: str = ""
    stage: str = STARTING


def attempt(work: Callable[..., Any], *arguments: Any, limits: Limits, fresh: bool = False) -> Ended:
    """Run `work(beat, *arguments)` in a separate process.

    The work calls `beat("next stage")` before every stage that may take long; each beat restarts the clock. By default
    the process is forked from a server that has only imported the libraries, which takes milliseconds. A fresh process
    starts a new interpreter.
    """
    context = multiprocessing.get_context("spawn" if fresh else "forkserver")
    if not fresh:
        context.set_forkserver_preload(["torch", "pytorch_metric_learning.losses", "pytorch_metric_learning.miners"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, limits.gigabytes, work, arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        return _listen(ours, process, limits)
    finally:
        process.kill()
        process.join()


def _listen(connection: Connection, process: Any, limits: Limits) -> Ended:
    stage, patience = STARTING, GRACE + limits.seconds
    while True:
        if not connection.poll(patience):
            return Ended(why_not=f"> {limits.seconds:g} s", stage=stage)
        try:
            kind, content = connection.recv()
        except EOFError:
            process.join()
            killed = process.exitcode in (-signal.SIGKILL, -signal.SIGABRT, -signal.SIGBUS)
            return Ended(why_not=OUT_OF_MEMORY if killed else f"died with status {process.exitcode}", stage=stage)
        if kind == "beat":
            stage, patience = content, limits.seconds
        elif kind == "failed":
            return Ended(why_not=content, stage=stage)
        else:
            return Ended(result=content, stage=stage)


def _run(connection: Connection, gigabytes: float, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run the work inside the process."""
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + int(gigabytes * 1e9), resource.RLIM_INFINITY))
    try:
        result = work(lambda stage: connection.send(("beat", stage)), *arguments)
    except Exception as error:
        connection.send(("failed", reason(error)))
    else:
        connection.send(("result", result))


def reason(error: Exception) -> str:
    """Return why the work failed: briefly if memory ran out, otherwise with the error's message."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return OUT_OF_MEMORY
    return f"{type(error).__name__}: {error}".splitlines()[0]
