"""The log of a training: log.jsonl, TensorBoard events, a progress bar and printed lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from embedding_expansion.runs.run_folder import RunFolder


class Journal:
    """Logs the steps of one process. Without a run folder (on ranks other than the first) it logs nothing."""

    def __init__(self, run: RunFolder | None, step: int, steps: int) -> None:
        self._run = run
        self._writer = None if run is None else SummaryWriter(str(run.tensorboard), purge_step=step + 1)
        hidden = run is None or not sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=hidden, leave=False)
        self._images, self._seconds = 0, 0.0  # since the last call of images_per_second

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def count(self, loss: float, images: int, seconds: float) -> None:
        """Counts a step: its loss, its images, and its duration including the wait for the images."""
        self._images += images
        self._seconds += seconds
        self._bar.set_postfix_str(f"loss {loss:.4f}, {images / seconds:.0f} images/s", refresh=False)
        self._bar.update()

    def images_per_second(self) -> float:
        """The training speed since the last call, without evaluations and checkpoints."""
        rate = self._images / self._seconds if self._seconds else 0.0
        self._images, self._seconds = 0, 0.0
        return rate

    def write(self, entry: dict[str, Any]) -> None:
        """Writes a line of log.jsonl and the same numbers as TensorBoard events; skips entries without numbers."""
        if self._run is None or self._writer is None or len(entry) == 1:
            return
        self._run.log(entry)
        for name, value in _flat(entry).items():
            if name != "step":
                self._writer.add_scalar(name, value, entry["step"])

    def print(self, line: str) -> None:
        """Prints a line above the progress bar."""
        if self._run is not None:
            self._bar.write(line)


def _flat(entry: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in entry.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": float(value)}
    return flat
