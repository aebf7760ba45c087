"""Python programs in processes of their own that take no time to start.

They are forked from a server that has already imported torch and this package: importing is what takes the time.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import torch

IMPORTED = [
    "torch.distributed",
    "embedding_expansion.app.cli",
    "embedding_expansion.app.report.page",
    "embedding_expansion.inference.collection",
    "embedding_expansion.training.run",
    "embedding_expansion.tuning.tune",
    "pytorch_metric_learning.losses",
    "pytest",
]
EMBEX = "import sys; from embedding_expansion.app.cli import main; sys.exit(main(sys.argv[1:]))"


def fork_server() -> Any:
    """The way to start processes, with the imports of the server set."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    return multiprocessing.get_context("forkserver")


class Forked:
    """A program that has been started, with one thread, in the manner of `subprocess.Popen`.

    Args:
        program: Python.
        arguments: its arguments.
        environment: variables to set; the others are those of the first process that was started.
    """

    def __init__(self, program: str, *arguments: str, **environment: str) -> None:
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._printed = [Path(folder) / name for name in ("stdout", "stderr")]
        given = (program, arguments, environment, self._printed)
        self._process = fork_server().Process(target=_run, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal that ended it."""
        return None if self._process.exitcode is None else int(self._process.exitcode)

    poll = returncode.fget

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has printed when it has ended."""
        self._process.join(timeout)
        assert self.returncode is not None, f"it runs after {timeout} seconds"
        out, err = (path.read_text() if path.exists() else "" for path in self._printed)
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> None:
        self._process.join()


def _run(program: str, arguments: tuple[str, ...], environment: dict[str, str], printed: list[Path]) -> None:
    for number, path in enumerate(printed, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = ["embex", *arguments]
    exec(program, {"__name__": "__main__"})
