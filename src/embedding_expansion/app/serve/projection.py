"""t-SNE in a process of its own: it does not stop the answers of the server, and ends with it, even if that is killed.

As a program it is given the number of the server's process, reads an array (n, d) from stdin, in the form of .npy, and
writes the places (n, 2) to stdout.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
from jaxtyping import Float

from embedding_expansion.inference.lifeline import end_with


class Projection:
    """Runs that program, and ends it when the server does; used by a thread that lives as long as the server."""

    def __init__(self) -> None:
        self._guard, self._is_stopped = threading.Lock(), False
        self._running: subprocess.Popen[bytes] | None = None

    def tsne(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"] | None:
        """The places of the points; None if it was stopped or failed."""
        content = io.BytesIO()
        np.save(content, points.astype(np.float32), allow_pickle=False)
        with self._guard:
            if self._is_stopped:
                return None
            self._running = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl+C of a terminal is the server's to deal with
            )
        with self._running as process:
            written, _ = process.communicate(content.getvalue())
        if process.returncode != 0:
            return None
        places: Float[np.ndarray, "n 2"] = np.load(io.BytesIO(written), allow_pickle=False)
        return places

    def stop(self) -> None:
        """Ends a run in progress; there will be no other."""
        with self._guard:
            self._is_stopped = True
            if self._running is not None and self._running.poll() is None:
                self._running.kill()


def main() -> None:
    """The program."""
    end_with(int(sys.argv[1]))
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with contextlib.suppress(OSError):
        os.nice(10)
    points = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    start = points[:, :2] / max(float(points[:, 0].std()), 1e-12) * 1e-4
    with threadpool_limits(1):  # type: ignore[no-untyped-call]  # the same points, the same map
        tsne: Any = TSNE(  # type: ignore[no-untyped-call]
            perplexity=min(30, len(points) / 4), init=start, random_state=0, max_iter=500
        )
        np.save(sys.stdout.buffer, tsne.fit_transform(points), allow_pickle=False)


if __name__ == "__main__":
    main()
