"""The log of a training: log.jsonl, TensorBoard events, a progress bar and printed lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from embedding_expansion.core.balance import FIGURES
from embedding_expansion.runs.heartbeat import Heartbeat
from embedding_expansion.runs.run_folder import RunFolder


class Journal:
    """Logs the steps of one process. Without a run folder (on ranks other than the first) it logs nothing."""

    def __init__(self, run: RunFolder | None, step: int, steps: int) -> None:
        self._run = run
        self._writer = None if run is None else SummaryWriter(str(run.tensorboard), purge_step=step + 1)
        hidden = run is None or not sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=hidden, leave=False)
        self._total, self._heartbeat = steps, Heartbeat(shown=run is not None and hidden)
        self._done = step
        self._steps, self._images, self._seconds, self._waited = 0, 0, 0.0, 0.0  # since the last call of figures
        self._without_push: Tensor | float = 0.0  # steps since then whose expanded table does not push
        self._statistics: dict[str, Tensor] = {}  # of the last step

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._bar.close()
        if self._writer is not None:
            self._writer.close()

    def count(
        self, loss: float, images: int, seconds: float, statistics: dict[str, Tensor], *, waited: float = 0.0
    ) -> None:
        """Counts a step: its loss, images, duration including the wait for the images, and `last_statistics`.

        Args:
            loss: the loss.
            images: the number of images.
            seconds: the duration, including the wait for the images.
            statistics: the `last_statistics` of the loss.
            waited: the seconds of the wait.
        """
        self._steps += 1
        self._images += images
        self._seconds += seconds
        self._waited += waited
        self._without_push = self._without_push + statistics.get("no_push", 0.0)  # on a GPU without waiting for it
        self._statistics = statistics
        self._bar.set_postfix_str(f"loss {loss:.4f}, {images / seconds:.0f} images/s", refresh=False)
        self._bar.update()
        self._done += 1
        if self._heartbeat.is_due():
            waits = f", {self._waited / self._seconds:.0%} of the time waiting for them" if self._waited else ""
            speed = f"{self._images / self._seconds:.3g} images/s{waits}"
            self.print(f"  step {self._done} of {self._total}: loss {loss:.4f}, {speed}")

    def figures(self) -> dict[str, Any]:
        """The figures of the loss; the speed, and the share of the time spent waiting for images, since the last call.

        Evaluations and checkpoints do not count.

        Those of the balance are grouped: `share` is the share of the pull that is kept, and `no_push` the share of the
        steps since the last call whose expanded table does not push. The others are of the last step.
        """
        figures: dict[str, Any] = {name: value.item() for name, value in self._statistics.items()}
        if "balance" in figures:
            inner = {"share": figures.pop("balance")}
            inner |= {name: figures.pop(name) for name in FIGURES if name in figures}
            figures["balance"] = inner | {"no_push": float(self._without_push) / max(self._steps, 1)}
        figures["images_per_second"] = round(self._images / self._seconds if self._seconds else 0.0, 1)
        figures["waiting_share"] = round(self._waited / self._seconds if self._seconds else 0.0, 4)
        self._steps, self._images, self._seconds, self._waited, self._without_push = 0, 0, 0.0, 0.0, 0.0
        return figures

    def write(self, entry: dict[str, Any]) -> None:
        """Writes a line of log.jsonl and its numbers as TensorBoard events; skips entries that hold only a step."""
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
            self._heartbeat.rest()


def _flat(entry: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        elif not isinstance(value, str):
            flat[f"{prefix}{name}"] = float(value)
    return flat
