"""A thread that notices when the index has changed, and surveys it again."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from embedding_expansion.app.serve.landscape import Landscape, nothing, survey
from embedding_expansion.app.serve.projection import Projection
from embedding_expansion.retrieval.index import Index, open_index

#: Seconds between two looks at whether the index has changed.
EVERY = 2.0
#: After a survey it rests for at least so many times as long as the survey took.
REST = 3.0
#: Seconds that the end of the server waits for the thread.
PATIENCE = 5.0


class Watch:
    """Keeps the landscape of an index; searches never wait for it, since it has a connection of its own.

    Args:
        location: of the index.
        noted: told the index, now and then; another process may have calibrated a threshold.
    """

    def __init__(self, location: str, noted: Callable[[Index], object]) -> None:
        self.landscape: Landscape = nothing()
        self._location, self._noted = location, noted
        self._projection, self._stopped = Projection(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="embex-map", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it; a survey that goes on is not waited for long."""
        self._stopped.set()
        self._projection.stop()
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        pause, seen = 0.0, ""
        index: Index | None = None
        while not self._stopped.wait(pause):
            pause = EVERY
            try:
                index = index or open_index(self._location)
                self._noted(index)
                state = index.state
                if state != seen:
                    pause = max(EVERY, REST * self._survey(index))
                    seen = state
            except Exception as error:  # such as a database that is away; whatever it is, it is looked at again
                print(f"embex serve: the map waits: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if index is not None:
            index.close()

    def _survey(self, index: Index) -> float:
        """Surveys the index; gives the seconds that it took."""
        begun = time.monotonic()
        for landscape in survey(index, self._projection):
            if self._stopped.is_set():
                break
            self.landscape = landscape
        return time.monotonic() - begun
