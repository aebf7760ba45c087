"""stdout and stderr while a command runs: names that are no text are shown, and a reader may leave at any moment."""

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
def standing(name: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Lets a command write to stdout or stderr without being ended by whoever reads it.

    A reader that leaves, as `| head` does, has had what it wanted: what follows is dropped, and the command goes on
    with its work, so that the files it was asked for are written. Of stderr every other failure is dropped as well,
    since there is nobody to tell.

    Raises:
        RunError: stdout cannot be written, as on a full disk.
    """
    before = getattr(sys, name)
    stream = _standing(before, name)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        if stream is not None:  # as after `>&-`
            stream.flush()
        setattr(sys, name, before)


def _standing(stream: io.TextIOBase | None, name: str) -> io.TextIOBase | None:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace")
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.FileIO):  # of a program that runs a command within itself
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
    """The open file behind a stream, which takes everything and drops it once it cannot be written any more."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, "wb", closefd=False)
        self._name, self._is_over = name, False

    def write(self, content: ReadableBuffer) -> int:
        """Writes bytes, or drops them."""
        if not self._is_over:
            try:
                return super().write(content)
            except OSError as error:
                self._is_over = True
                if self._name == "stdout" and not isinstance(error, BrokenPipeError):
                    raise RunError(
                        f"stdout cannot be written ({error.strerror}); make room for it, or name another place"
                    ) from error
        return memoryview(content).nbytes
