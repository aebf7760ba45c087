"""Says now and then how far a long task is where there is no terminal to draw a progress bar on, such as in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

#: Seconds of silence after which a task says how far it is, when its next step ends.
EVERY = 30.0


class Heartbeat:
    """Tells when a line is due.

    Args:
        shown: whether lines are wanted; None: if stderr is not a terminal.
        clock: the seconds that pass.
    """

    def __init__(self, *, shown: bool | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._shown = not sys.stderr.isatty() if shown is None else shown
        self._clock = clock
        self._began = self._last = clock()

    @property
    def seconds(self) -> float:
        """The seconds since the beginning."""
        return self._clock() - self._began

    def is_due(self) -> bool:
        """Whether `EVERY` seconds have passed since the last line. The answer counts as a line."""
        now = self._clock()
        if not self._shown or now - self._last < EVERY:
            return False
        self._last = now
        return True

    def rest(self) -> None:
        """Something else was printed."""
        self._last = self._clock()
