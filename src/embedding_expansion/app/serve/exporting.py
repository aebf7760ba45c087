"""Exports a selection: its paths, a table in CSV, or a zip file with the original images and that table."""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from collections.abc import Iterator, Sequence

from embedding_expansion.app.serve.originals import PIECE, opened_original
from embedding_expansion.data.table import escape_formula
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.retrieval.index import Item

#: The most bytes of images in a zip file.
MOST_BYTES = 4 << 30
#: The name of the table in a zip file.
TABLE = "images.csv"


def paths(items: Sequence[Item]) -> bytes:
    """The paths, one a line, byte for byte as the file system has them."""
    return b"".join(os.fsencode(item.path) + b"\n" for item in items)


def table(items: Sequence[Item]) -> bytes:
    """A table with the columns path, label and all metadata; `embex index --labels` reads it."""
    return _table(items, {})


def archive(items: Sequence[Item]) -> Iterator[bytes]:
    """A zip file, piece by piece: a folder for each label, and a table that says which file is which.

    An original that cannot be read is left out, and the column `file` of the table says why.

    Raises:
        InvalidInput: the originals have too many bytes. This is raised by the call itself, before any piece is made.
    """
    size = sum(_size(item) for item in items)
    if size > MOST_BYTES:
        raise InvalidInput(
            f"the originals of this selection have {size:,} bytes, but a zip file takes at most {MOST_BYTES:,}; select "
            "fewer images, or export the paths"
        )
    return _archive(items)


def _archive(items: Sequence[Item]) -> Iterator[bytes]:
    sink, names, taken = _Sink(), dict[int, str](), {TABLE}
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as zipped:  # images are compressed already
        for place, item in enumerate(items):
            try:
                with opened_original(item) as original:
                    name = _name(item, taken)
                    taken.add(name)
                    with zipped.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
                        while piece := original.file.read(PIECE):
                            entry.write(piece)
                            yield from sink.taken()
                names[place] = name
            except DataError as error:
                names[place] = f"left out: {error}"
            yield from sink.taken()
        zipped.writestr(TABLE, _table(items, names))
    yield from sink.taken()


class _Sink(io.RawIOBase):
    """Collects what is written, until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        piece = bytes(content)  # type: ignore[call-overload]  # any buffer
        self._pieces.append(piece)
        return len(piece)

    def taken(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, []
        yield from pieces


def _table(items: Sequence[Item], names: dict[int, str]) -> bytes:
    keys = sorted({key for item in items for key in item.metadata})
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", *(["file"] if names else []), *keys])
    for place, item in enumerate(items):
        file = [escape_formula(names[place])] if names else []
        facts = [_field(item.metadata.get(key)) for key in keys]
        writer.writerow([escape_formula(item.path), escape_formula(item.label or ""), *file, *facts])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _field(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return escape_formula(value) if isinstance(value, str) else str(value)


def _name(item: Item, taken: set[str]) -> str:
    """LABEL/FILE, with characters that other systems or `..` could make trouble of replaced, and never twice."""
    label, file = (_safe(text) for text in (item.label or "no label", os.path.basename(item.path)))
    name = f"{label}/{file}"
    if name in taken:
        stem, extension = os.path.splitext(file)
        name = f"{label}/{stem}-{item.id}{extension}"
    return name


def _safe(text: str) -> str:
    cleaned = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*\ud800-\udfff]', "_", text).strip(" .")
    return cleaned[:150] or "_"


def _size(item: Item) -> int:
    try:
        with opened_original(item) as original:
            return original.size
    except DataError:
        return 0
