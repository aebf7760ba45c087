"""t-SNE in a separate process, so that it does not slow the server down. It ends with the server, even a killed one.

Run as a program, this module takes the server's process id as its argument, reads an array (n, d) in .npy format from
stdin and writes the positions (n, 2) to stdout.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading

import numpy as np
from jaxtyping import Float

from embedding_expansion.inference.lifeline import end_with


class Projection:
    """Runs this module as a program. Use it from a thread that lives as long as the server."""

    def __init__(self) -> None:
        self._guard, self._is_stopped = threading.Lock(), False
        self._running: subprocess.Popen[bytes] | None = None

    def tsne(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"] | None:
        """Computes the 2-D positions of the points; None if the process was stopped or failed."""
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
                start_new_session=True,  # the server handles Ctrl+C
            )
        with self._running as process:
            written, _ = process.communicate(content.getvalue())
        if process.returncode != 0:
            return None
        positions: Float[np.ndarray, "n 2"] = np.load(io.BytesIO(written), allow_pickle=False)
        return positions

    def stop(self) -> None:
        """Kills a running process. Later calls of `tsne` return None."""
        with self._guard:
            self._is_stopped = True
            if self._running is not None and self._running.poll() is None:
                self._running.kill()


def main() -> None:
    """Runs the program."""
    end_with(int(sys.argv[1]))
    from embedding_expansion.retrieval.projection import in_deviations, tsne

    with contextlib.suppress(OSError):
        os.nice(10)
    points = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    np.save(sys.stdout.buffer, tsne(points, in_deviations(points), perplexity=30), allow_pickle=False)


if __name__ == "__main__":
    main()
