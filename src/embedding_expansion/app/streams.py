"""Makes stdout and stderr robust: undecodable file names can be printed, and a closed pipe does not stop a command."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from embedding_expansion.errors import RunError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@contextmanager
def tolerant_stream(name: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Keeps a command running when nobody reads its stdout or stderr any more.

    If the reader closes the pipe, as `| head` does, further output is discarded. The command continues, so that it
    still writes its files. All other failures of stderr are ignored too, as there is no place to report them.

    Raises:
        RunError: stdout cannot be written, for example because the disk is full.
    """
    before = getattr(sys, name)
    stream = _tolerant(before, name)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        if stream is not None:  # it is None after `>&-`
            stream.flush()
        setattr(sys, name, before)


def _tolerant(stream: io.TextIOBase | None, name: str) -> io.TextIOBase | None:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace")
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.FileIO):  # replaced by a program that calls `main` itself
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(raw.fileno(), name)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Descriptor(io.FileIO):
    """The file behind a stream. After the first failed write it discards all further output."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, "wb", closefd=False)
        self._name, self._has_failed = name, False

    def write(self, content: ReadableBuffer) -> int:
        """Writes or discards bytes."""
        if not self._has_failed:
            try:
                return super().write(content)
            except OSError as error:
                self._has_failed = True
                if self._name == "stdout" and not isinstance(error, BrokenPipeError):
                    raise RunError(
                        f"stdout cannot be written ({error.strerror}); free some space, or redirect it elsewhere"
                    ) from error
        return memoryview(content).nbytes
