"""Decodes uploads in a few worker processes, which are killed and replaced after a deadline.

The server itself never decodes. Ordinary images go to the quick processes. An image that is large by its header, or
that takes longer than `QUICK` seconds, goes to one slow process of low priority, so that ordinary images need not wait
for it.
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

from embedding_expansion.app.serve.batching import ENDING, Busy, Stopped
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import EmbeddingExpansionError, RunError
from embedding_expansion.inference import decoder
from embedding_expansion.inference.decoder import LARGE, Decoded, DecodeTask, Verdict

#: Number of quick processes, and their deadline for an image in seconds.
QUICK_PROCESSES, QUICK = min(4, os.cpu_count() or 1), 2.0
#: The maximum number of images in or waiting for the slow process; one more gets 503.
SLOW_PLACES = 3
#: Niceness of the slow process relative to the server.
NICENESS = 10
#: Memory limit of a process: bytes per pixel (at most 22 were measured, and 4 more for a rotated image), bytes per byte
#: of the file, and bytes for Python itself.
PER_PIXEL, PER_BYTE, BESIDES = 28, 3, 32 << 20
#: Seconds that a process may take to start, and the number of attempts.
START, STARTS = 60.0, 3

STATUS = {Verdict.UNKNOWN: 415, Verdict.TOO_LARGE: 413, Verdict.UNUSABLE: 422}


class Refused(EmbeddingExpansionError):
    """An image that the server does not embed.

    Args:
        status: the HTTP status.
        sentence: the reason.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Decoders:
    """Turns the bytes of image files into the input of the model.

    Args:
        preprocessing: the preprocessing of the model.
        settings: the options of the server.
    """

    def __init__(self, preprocessing: Preprocessing, settings: Settings) -> None:
        formats = tuple(name.upper() for name in settings.formats)
        most, memory = settings.max_pixels, _memory(settings.max_pixels, settings)
        slow = DecodeTask(preprocessing, formats, most, leaves_slow=False, memory=memory, niceness=NICENESS)
        quick = replace(slow, leaves_slow=True, memory=_memory(min(LARGE, most), settings), niceness=0)
        self._seconds, self._places = settings.decode_timeout, threading.Semaphore(SLOW_PLACES)
        self._quick = _Lane(quick, min(QUICK, self._seconds), QUICK_PROCESSES, settings.max_bytes)
        self._slow = _Lane(slow, self._seconds, 1, settings.max_bytes)

    async def decoded(self, image: bytes, *, with_thumbnail: bool = False) -> Decoded:
        """Decodes an image, and crops and resizes it to the square that the model takes.

        Args:
            image: the bytes of the file.
            with_thumbnail: whether to make its thumbnail as well.

        Raises:
            Refused: the image cannot be decoded, is not accepted, or takes too long.
            Busy: too many slow images are being decoded already.
            Stopped: the server is shutting down.
        """
        found = await asyncio.wrap_future(self._quick.decoded(image, with_thumbnail))
        if found is None:
            with self._slow_place():
                found = await asyncio.wrap_future(self._slow.decoded(image, with_thumbnail))
        if found is None:
            raise Refused(504, f"the image was not decoded within {self._seconds:g} seconds; send a smaller one")
        return found

    @property
    def processes(self) -> list[int]:
        """The process ids of the running processes."""
        return [number for lane in (self._quick, self._slow) for number in lane.processes]

    def stop(self) -> None:
        """Kills all processes. Waiting requests fail with `Stopped`."""
        for lane in (self._quick, self._slow):
            lane.stop()

    @contextlib.contextmanager
    def _slow_place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Busy("several slow images are being decoded already; send a smaller one, or try again later")
        try:
            yield
        finally:
            self._places.release()


def _memory(pixels: int, settings: Settings) -> int:
    return PER_PIXEL * pixels + PER_BYTE * settings.max_bytes + BESIDES


class _Lane:
    """A queue of images and the processes that decode them; one thread drives each process.

    Args:
        task: what the processes do.
        seconds: the deadline for an image.
        count: the number of processes.
        most: the maximum number of bytes of an image.
    """

    def __init__(self, task: DecodeTask, seconds: float, count: int, most: int) -> None:
        self._line = queue.SimpleQueue[tuple[bytes, bool, Future[Decoded | None]] | None]()
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

    def decoded(self, image: bytes, with_thumbnail: bool) -> Future[Decoded | None]:
        """Submits an image. The result is None if decoding takes too long."""
        future: Future[Decoded | None] = Future()
        if self._is_stopped:
            raise Stopped(ENDING)
        self._line.put((image, with_thumbnail, future))
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
            image, with_thumbnail, future = asked
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(one.decode(image, self._seconds, with_thumbnail))
            except BaseException as error:
                future.set_exception(Stopped(ENDING) if self._is_stopped else error)
        one.end()


class _Decoder:
    """A decoding process and its replacements. One thread, which outlives them, calls all methods except `stop`."""

    def __init__(self, task: DecodeTask, most: int) -> None:
        self._task, self._most = task, most
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready, self._is_stopped, self._guard = False, False, threading.Lock()

    @property
    def number(self) -> int | None:
        """The id of the process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts a process without waiting for it. If that fails, `decode` reports it."""
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
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # every thread takes memory
                start_new_session=True,  # the server handles Ctrl+C
            )
        self._is_ready = False

    def decode(self, image: bytes, seconds: float, with_thumbnail: bool) -> Decoded | None:
        """Decodes an image; None if that takes too long, or if the process left it to the slow one.

        A process that takes too long is killed. A process that was killed or has died is replaced, and gets the image
        once more: what ended it may have nothing to do with the image.

        Raises:
            Refused: the image cannot be decoded.
            RunError: no process can be started.
        """
        try:
            return self._decoded(image, seconds, with_thumbnail)
        except (OSError, EOFError):
            self._restart()
        try:
            return self._decoded(image, seconds, with_thumbnail)
        except (OSError, EOFError):
            self._restart()
            raise Refused(422, "the decoder crashed on this image; save it again, or send another") from None

    def _decoded(self, image: bytes, seconds: float, with_thumbnail: bool) -> Decoded | None:
        """`decode` by the process that runs, which may end meanwhile (OSError, EOFError)."""
        if self._process is None or self._process.poll() is not None:  # it died for another reason
            self._restart()
        self._await_start()
        size, deadline = self._task.preprocessing.size, time.monotonic() + seconds
        try:
            asked = Verdict.WITH_THUMBNAIL if with_thumbnail else Verdict.READY
            decoder.send(self._connection, asked, image, deadline)
            verdict, content = decoder.receive(self._connection, decoder.most_bytes(size), deadline)
        except TimeoutError:
            self._restart()
            return None
        if verdict is Verdict.SQUARE:
            return Decoded.of_bytes(content, size)
        if verdict is Verdict.SLOW:
            return None
        raise Refused(STATUS[verdict], " ".join(content.decode(errors="replace").split()))

    def end(self) -> None:
        """Kills the process and waits for its end."""
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Kills the process for good: it is not replaced. The thread that waits for it notices."""
        with self._guard:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def _await_start(self) -> None:
        for _ in range(STARTS):
            if not self._is_ready:
                self._receive_start()
        if not self._is_ready:
            raise RunError("the process that decodes images does not start; check the free memory and the server's log")

    def _receive_start(self) -> None:
        try:
            decoder.receive(self._connection, 0, time.monotonic() + START)
            self._is_ready = True
        except (OSError, EOFError):
            self._restart()

    def _restart(self) -> None:
        self.end()
        self.start()
