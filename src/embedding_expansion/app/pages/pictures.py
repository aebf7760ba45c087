"""Small pictures of images, as data URIs that stand in the page itself."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedding_expansion.data.decoding import decode
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.retrieval.index import Index, Item

SIDE = 160  # the longer one, in pixels
EXACT = 64  # up to this side a PNG, which keeps every pixel


@dataclass(frozen=True)
class Picture:
    """An image as a page shows it."""

    uri: str  # empty where there is no picture
    name: str  # of the file, without its folders
    path: str
    label: str  # empty where there is none
    size: str  # of the image itself, such as 640 × 480; empty where it is not known


class Album:
    """Items as pictures, each made when it is asked for: from its thumbnail, or else from its file."""

    def __init__(self, index: Index | None = None) -> None:
        self._index = index

    def __getitem__(self, item: Item) -> Picture:
        """The picture of an item, of the index or of a file."""
        source: bytes | Path = Path(item.path) if (thumbnail := self._thumbnail(item)) is None else thumbnail
        return Picture(uri_of(source), file_name(item.path), item.path, item.label or "", _size(item))

    def _thumbnail(self, item: Item) -> bytes | None:
        if item.thumbnail is not None or self._index is None or item.id is None:
            return item.thumbnail
        try:
            return self._index.get(item.id).thumbnail
        except InvalidInput:  # it was removed meanwhile
            return None


def uri_of(source: bytes | Path) -> str:
    """A file, or what stands in one, as a data URI; empty where it cannot be decoded."""
    try:
        return data_uri(decode(source), SIDE, EXACT)
    except DataError:
        return ""


def data_uri(pixels: npt.NDArray[np.uint8], side: int, exact: int) -> str:
    """Pixels, (h, w, 3) or grey (h, w), made smaller to a longer side: as PNG up to `exact` pixels, else as JPEG."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = "PNG" if max(picture.size) <= exact else "JPEG"
    stream = io.BytesIO()
    picture.save(stream, kind, optimize=True, **({"quality": 82} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def file_name(path: str) -> str:
    """The last part of a path, or all of it where it ends in a stroke."""
    return os.path.basename(path) or path


def common_folder(paths: Iterable[str]) -> str:
    """The deepest folder that all paths lie in, with a stroke at its end; empty where there is none."""
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # none at all, or some are absolute and some not
        return ""
    return os.path.join(folder, "") if folder else ""


def _size(item: Item) -> str:
    width, height = item.metadata.get("width"), item.metadata.get("height")
    return f"{width} × {height}" if isinstance(width, int) and isinstance(height, int) else ""
