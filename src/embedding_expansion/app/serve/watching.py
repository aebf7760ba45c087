"""A thread that recomputes the map whenever the index has changed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from embedding_expansion.app.serve.collection_map import CollectionMap, compute_maps, empty_map
from embedding_expansion.app.serve.projection import Projection
from embedding_expansion.retrieval.index import Index, open_index

#: Seconds between two checks of the index.
EVERY = 2.0
#: The pause after computing a map, as a multiple of the time that the map took.
REST = 3.0
#: Seconds that shutdown waits for the thread.
PATIENCE = 5.0


class IndexWatcher:
    """Keeps the map of an index up to date. It has its own connection, so searches never wait for it.

    Args:
        location: the folder or URL of the index.
        on_check: called with the index at every check.
    """

    def __init__(self, location: str, on_check: Callable[[Index], object]) -> None:
        self.collection_map: CollectionMap = empty_map()
        self._location, self._on_check = location, on_check
        self._projection, self._stopped = Projection(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="embex-map", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread. Waits at most `PATIENCE` seconds for a map in progress."""
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
                self._on_check(index)
                state = index.state
                if state != seen:
                    pause = max(EVERY, REST * self._compute(index))
                    seen = state
            except Exception as error:  # such as an unreachable database: try again later
                print(
                    f"embex serve: the map is not updated: {' '.join(str(error).split())}", file=sys.stderr, flush=True
                )
        if index is not None:
            index.close()

    def _compute(self, index: Index) -> float:
        """Computes the map of the index; returns the seconds that it took."""
        begun = time.monotonic()
        for drawn in compute_maps(index, self._projection):
            if self._stopped.is_set():
                break
            self.collection_map = drawn
        return time.monotonic() - begun
