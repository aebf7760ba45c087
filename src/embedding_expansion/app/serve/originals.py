"""The original files of items, opened by the path in the index, never by one of a client, if they are images."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from embedding_expansion.errors import DataError
from embedding_expansion.retrieval.index import Item

#: How many bytes are read at a time.
PIECE = 1 << 18

#: First bytes of image files, and their media types. SVG is not among them, as it can hold scripts.
_STARTS = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\x00": "image/tiff",
    b"MM\x00*": "image/tiff",
    b"P5": "image/x-portable-graymap",
    b"P6": "image/x-portable-pixmap",
}

#: All media types of originals.
KINDS = sorted({*_STARTS.values(), "image/webp", "image/avif"})


@dataclass(frozen=True)
class Original:
    """An open original file.

    Attributes:
        file: the open file, at its start. Who asked for it closes it.
        kind: its media type.
        size: its size in bytes.
        tag: changes when the file changes.
    """

    file: IO[bytes]
    kind: str
    size: int
    tag: str

    def pieces(self) -> Iterator[bytes]:
        """The content, as much as `size` says, and closes the file at the end."""
        left = self.size
        with self.file:
            while left > 0 and (piece := self.file.read(min(PIECE, left))):
                left -= len(piece)
                yield piece


def open_original(item: Item) -> Original:
    """Opens the file of an item.

    Raises:
        DataError: the path is not absolute, there is no regular file that can be read, or it is not an image.
    """
    if not os.path.isabs(item.path):
        raise DataError("the index does not say where the original is; its path is not absolute")
    try:
        # Opening a pipe would wait for its writer without O_NONBLOCK.
        file = os.fdopen(os.open(item.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is invalid"
        raise DataError(f"the original cannot be opened on this server ({reason})") from None
    try:
        facts = os.fstat(file.fileno())
        kind = image_type(file.read(16)) if stat.S_ISREG(facts.st_mode) else None
        if kind is None:
            raise DataError("the file of this item is not an image any more")
        file.seek(0)
        return Original(file, kind, facts.st_size, f"{facts.st_size:x}-{facts.st_mtime_ns:x}")
    except BaseException as error:
        file.close()
        if isinstance(error, OSError):
            raise DataError(f"the original cannot be read on this server ({error.strerror})") from None
        raise


@contextmanager
def opened_original(item: Item) -> Iterator[Original]:
    """`open_original`, closed at the end of the block."""
    original = open_original(item)
    with original.file:
        yield original


def image_type(start: bytes) -> str | None:
    """The media type of a file by its first 16 bytes; None if they are not those of an image."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    return next((kind for first, kind in _STARTS.items() if start.startswith(first)), None)
