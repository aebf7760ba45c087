"""Stopping in an orderly way: SIGINT and SIGTERM are noted, and the loop looks between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_CAUGHT = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Notes the first SIGINT or SIGTERM while it is entered; the second one acts as it always did.

    Only the main thread can catch signals; elsewhere this notes nothing.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal, 0 while there was none
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._previous = {caught: signal.signal(caught, self._note) for caught in _CAUGHT}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for caught, handler in self._previous.items():
            signal.signal(caught, handler)
        self._previous = {}
