"""Counts what a run waits for: its images, or the model."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass
class ReadingClock:
    """Seconds of the passes over images, of training and embedding alike.

    Attributes:
        waiting: spent waiting for images.
        computing: spent in the model.
        decoding: of the processor, spent reading, decoding and resizing, in this process and in others. Some of it
            passes while the model computes.
    """

    waiting: float = 0.0
    computing: float = 0.0
    decoding: float = 0.0

    @property
    def share(self) -> float:
        """The share of the time that was spent waiting, 0 to 1."""
        total = self.waiting + self.computing
        return self.waiting / total if total else 0.0

    def waits(self, batches: Iterable[_T]) -> Iterator[_T]:
        """Yields the batches, and counts how long each takes to come."""
        began = time.perf_counter()
        for batch in batches:
            self.waiting += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    @contextmanager
    def computes(self) -> Iterator[None]:
        """Counts the time of a block as that of the model."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.computing += time.perf_counter() - began
