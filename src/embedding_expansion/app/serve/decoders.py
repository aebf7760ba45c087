"""Uploads are decoded by a few processes, which are ended at a deadline and replaced: the server itself never decodes.

Ordinary images go to the quick processes. What is large by its header, or not done within `QUICK` seconds, goes to
one slow process of low priority, so that such images wait for each other and not the ordinary ones for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from embedding_expansion.app.serve.batching import ENDING, Busy, Stopped
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import EmbeddingExpansionError, RunError
from embedding_expansion.inference import decoder
from embedding_expansion.inference.decoder import LARGE, Task, Verdict
from embedding_expansion.inference.embedder import Square

#: Quick processes, and the seconds that one spends on an image.
QUICK_PROCESSES, QUICK = min(4, os.cpu_count() or 1), 2.0
#: Images that may wait for the slow process or be in it; the next one gets 503.
SLOW_PLACES = 3
#: What the slow process is nicer than the server.
NICENESS = 10
#: Memory of a process: bytes a pixel (22 were the most that was measured, 4 more where the image is turned), times as
#: much as its file, and what Python takes meanwhile.
PER_PIXEL, PER_BYTE, BESIDES = 28, 3, 32 << 20
#: Seconds that a process may take to start, and how often that is tried.
START, STARTS = 60.0, 3

STATUS = {Verdict.UNKNOWN: 415, Verdict.TOO_LARGE: 413, Verdict.UNUSABLE: 422}


class Refused(EmbeddingExpansionError):
    """An image is not embedded.

    Args:
        status: of HTTP.
        sentence: why.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Decoders:
    """Makes of the bytes of images what the model sees.

    Args:
        preprocessing: of the model.
        settings: of the server.
    """

    def __init__(self, preprocessing: Preprocessing, settings: Settings) -> None:
        formats = tuple(name.upper() for name in settings.formats)
        most, memory = settings.max_pixels, _memory(settings.max_pixels, settings)
        slow = Task(preprocessing, formats, most, leaves_slow=False, memory=memory, niceness=NICENESS)
        quick = replace(slow, leaves_slow=True, memory=_memory(min(LARGE, most), settings), niceness=0)
        self._seconds, self._places = settings.decode_timeout, threading.Semaphore(SLOW_PLACES)
        self._quick = _Lane(quick, min(QUICK, self._seconds), QUICK_PROCESSES, settings.max_bytes)
        self._slow = _Lane(slow, self._seconds, 1, settings.max_bytes)

    async def square(self, image: bytes) -> Square:
        """What the model sees of an image.

        Raises:
            Refused: it cannot be decoded, may not be, or takes too long.
            Busy: others that take long are being decoded.
            Stopped: the server is ending.
        """
        square = await asyncio.wrap_future(self._quick.decoded(image))
        if square is None:
            with self._slow_place():
                square = await asyncio.wrap_future(self._slow.decoded(image))
        if square is None:
            raise Refused(504, f"the image was not decoded within {self._seconds:g} seconds; send a smaller one")
        return square

    @property
    def processes(self) -> list[int]:
        """Their numbers, of those that run now."""
        return [number for lane in (self._quick, self._slow) for number in lane.processes]

    def stop(self) -> None:
        """Ends all processes; whoever waits is told so."""
        for lane in (self._quick, self._slow):
            lane.stop()

    @contextlib.contextmanager
    def _slow_place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Busy("several images that take long are being decoded; send a smaller one, or try again later")
        try:
            yield
        finally:
            self._places.release()


def _memory(pixels: int, settings: Settings) -> int:
    return PER_PIXEL * pixels + PER_BYTE * settings.max_bytes + BESIDES


class _Lane:
    """Images that wait in a line for the same processes; each process has a thread that attends to it.

    Args:
        task: of the processes.
        seconds: that one may spend on an image.
        count: of the processes.
        most: bytes of an image.
    """

    def __init__(self, task: Task, seconds: float, count: int, most: int) -> None:
        self._line = queue.SimpleQueue[tuple[bytes, Future[Square | None]] | None]()
        self._seconds, self._is_stopped = seconds, False
        self._decoders = [_Decoder(task, most) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._work, args=(one,), name="embex-decoder", daemon=True)
            for one in self._decoders
        ]
        for thread in self._threads:
            thread.start()

    @property
    def processes(self) -> list[int]:
        return [one.number for one in self._decoders if one.number is not None]

    def decoded(self, image: bytes) -> Future[Square | None]:
        """The square of an image, or None where it takes longer."""
        future: Future[Square | None] = Future()
        if self._is_stopped:
            raise Stopped(ENDING)
        self._line.put((image, future))
        return future

    def stop(self) -> None:
        self._is_stopped = True
        for one in self._decoders:
            self._line.put(None)
            one.stop()
        for thread in self._threads:
            thread.join()

    def _work(self, one: _Decoder) -> None:
        one.start()
        while (asked := self._line.get()) is not None:
            image, future = asked
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(one.decode(image, self._seconds))
            except BaseException as error:
                future.set_exception(Stopped(ENDING) if self._is_stopped else error)
        one.end()


class _Decoder:
    """A process that decodes, and its successors. All but `stop` is called by one thread, which outlives them."""

    def __init__(self, task: Task, most: int) -> None:
        self._task, self._most = task, most
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready, self._is_stopped, self._guard = False, False, threading.Lock()

    @property
    def number(self) -> int | None:
        """Of the process, as the system counts them."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts a process, without waiting for it. Where that fails, `decode` says so."""
        self._connection, theirs = socket.socketpair()
        given = [str(os.getpid()), str(theirs.fileno()), str(self._most), self._task.to_json()]
        with self._guard, theirs, contextlib.suppress(OSError):
            if self._is_stopped:
                return
            self._process = subprocess.Popen(
                [sys.executable, "-m", decoder.__name__, *given],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each thread would take memory
                start_new_session=True,  # Ctrl+C of a terminal is the server's to deal with
            )
        self._is_ready = False

    def decode(self, image: bytes, seconds: float) -> Square | None:
        """The square of an image; None where it takes longer, or was left for that.

        Where it takes longer the process is ended, and where it ends by itself another one follows.

        Raises:
            Refused: it cannot be decoded.
            RunError: no process can be started.
        """
        if self._process is None or self._process.poll() is not None:  # it has died of something else
            self._begin_anew()
        self._await_start()
        size, deadline = self._task.preprocessing.size, time.monotonic() + seconds
        try:
            decoder.send(self._connection, Verdict.READY, image, deadline)
            verdict, content = decoder.receive(self._connection, max(3 * size**2, 10_000), deadline)
        except TimeoutError:
            self._begin_anew()
            return None
        except (OSError, EOFError):
            self._begin_anew()
            raise Refused(422, "the decoder failed at the image; save it again, or send another") from None
        if verdict is Verdict.SQUARE:
            return np.frombuffer(content, np.uint8).reshape(size, size, 3)
        if verdict is Verdict.SLOW:
            return None
        raise Refused(STATUS[verdict], " ".join(content.decode(errors="replace").split()))

    def end(self) -> None:
        """Ends the process and waits for that."""
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ends the process, which whoever waits for it notices; there will be no other."""
        with self._guard:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def _await_start(self) -> None:
        for _ in range(STARTS):
            if not self._is_ready:
                self._receive_start()
        if not self._is_ready:
            raise RunError("a process that decodes images does not start; look at its message, and at the memory left")

    def _receive_start(self) -> None:
        try:
            decoder.receive(self._connection, 0, time.monotonic() + START)
            self._is_ready = True
        except (OSError, EOFError):
            self._begin_anew()

    def _begin_anew(self) -> None:
        self.end()
        self.start()
