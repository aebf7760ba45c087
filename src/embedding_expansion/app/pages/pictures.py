"""Thumbnails of images as data URIs, which are part of the HTML page itself."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.data.decoding import decode
from embedding_expansion.data.thumbnails import data_uri, thumbnail
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.retrieval.index import Index, Item

SIDE = 160  # longer side of a thumbnail, in pixels


@dataclass(frozen=True)
class PageImage:
    """An image on an HTML page."""

    uri: str  # empty without a picture
    name: str  # file name without folders
    path: str
    label: str  # empty without a label
    size: str  # size of the original image, such as 640 × 480; empty if unknown


class PageImages:
    """The pictures of items, made on demand from an item's thumbnail, or from its file if it has no thumbnail."""

    def __init__(self, index: Index | None = None) -> None:
        self._index = index

    def __getitem__(self, item: Item) -> PageImage:
        """The picture of an item."""
        source: bytes | Path = Path(item.path) if (thumbnail := self._thumbnail(item)) is None else thumbnail
        return PageImage(uri_of(source), file_name(item.path), item.path, item.label or "", _size(item))

    def _thumbnail(self, item: Item) -> bytes | None:
        if item.thumbnail is not None or self._index is None or item.id is None:
            return item.thumbnail
        try:
            return self._index.get(item.id).thumbnail
        except InvalidInput:  # the item was removed in the meantime
            return None


def uri_of(source: bytes | Path) -> str:
    """An image file, or its bytes, as a data URI; empty if it cannot be decoded."""
    try:
        return data_uri(thumbnail(decode(source, least=SIDE), SIDE))
    except DataError:
        return ""


def file_name(path: str) -> str:
    """The last part of a path, or the whole path if it ends with a slash."""
    return os.path.basename(path) or path


def common_folder(paths: Iterable[str]) -> str:
    """The deepest folder that contains all paths, with a slash at its end; empty if there is none."""
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no paths, or a mix of absolute and relative ones
        return ""
    return os.path.join(folder, "") if folder else ""


def _size(item: Item) -> str:
    width, height = item.metadata.get("width"), item.metadata.get("height")
    return f"{width} × {height}" if isinstance(width, int) and isinstance(height, int) else ""
