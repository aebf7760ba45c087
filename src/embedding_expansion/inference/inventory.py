"""Compares image files with an index: which images to embed, which to relabel, and which files are missing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedding_expansion.data.finding import ImageFile
from embedding_expansion.inference.labels import OWN, Labels
from embedding_expansion.retrieval.index import Index, Item

#: Number of files looked up in the index at once.
CHUNK = 1024


@dataclass(frozen=True)
class Entry:
    """The desired state of an image in the index.

    Attributes:
        path: its absolute path.
        read: the file to read, which for a prepared set is the shrunk one.
        label: its class, or None.
        metadata: its metadata, without the facts of the file.
        size: the size of the file in bytes.
        mtime: the modification time of the file in seconds.
    """

    path: str
    read: str
    label: str | None
    metadata: Mapping[str, Any]
    size: int
    mtime: float

    @property
    def file_facts(self) -> dict[str, Any]:
        """The metadata that detects a changed file."""
        return {"bytes": self.size, "mtime": self.mtime}


@dataclass(frozen=True)
class IndexingPlan:
    """The changes that an index needs.

    Attributes:
        embed: new images, and images whose file has changed.
        relabel: images with an unchanged file but a changed label or changed metadata.
        unchanged: the number of images that are up to date.
        broken: path -> reason, for paths that are not readable files.
    """

    embed: list[Entry] = field(default_factory=list)
    relabel: list[Entry] = field(default_factory=list)
    unchanged: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def compare(index: Index, files: Iterable[ImageFile], labels: Labels, *, keep: bool) -> IndexingPlan:
    """Compares images with the items of an index by path, size and time of the file, label and metadata.

    Args:
        index: the index.
        files: the images; a file that occurs twice counts once.
        labels: the labels and metadata of the images.
        keep: whether indexed images keep their label and metadata.
    """
    embed, relabel, unchanged, broken = list[Entry](), list[Entry](), 0, dict[str, str]()
    named: dict[str, ImageFile] = {}
    for file in files:
        named.setdefault(os.path.abspath(file.path), file)
    paths_of_all = list(named)
    for start in range(0, len(paths_of_all), CHUNK):
        paths = paths_of_all[start : start + CHUNK]
        there = {item.path: item for items in index.items({"path": paths}, size=CHUNK) for item in items}
        for path in paths:
            try:
                read = os.path.abspath(named[path].read)
                size, mtime = _stamp(read)
            except OSError as error:
                broken[path] = f"{error.strerror or error}; restore it, or remove it from the list"
                continue
            item = there.get(path)
            label, metadata = labels.of(path, named[path].folder)
            if item is not None and keep:
                label, metadata = item.label, _metadata(item)
            entry = Entry(path, read, label, metadata, size, mtime)
            if item is None or not entry.file_facts.items() <= item.metadata.items():
                embed.append(entry)
            elif (item.label, _metadata(item)) != (label, metadata):
                relabel.append(entry)
            else:
                unchanged += 1
    return IndexingPlan(embed, relabel, unchanged, broken)


def missing(index: Index) -> list[str]:
    """The paths of items whose file no longer exists.

    A file that is inaccessible for another reason, such as the permissions of a folder, does not count as missing.
    """
    gone = []
    for items in index.items():
        for item in items:
            try:
                os.stat(item.path)
            except (FileNotFoundError, NotADirectoryError):
                gone.append(item.path)
            except OSError:
                pass
    return gone


def _metadata(item: Item) -> dict[str, Any]:
    return {name: value for name, value in item.metadata.items() if name not in OWN}


def _stamp(path: str) -> tuple[int, float]:
    """Size and modification time of a file.

    Raises:
        OSError: the path is inaccessible or not a regular file. Reading from a pipe could block forever.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is not a regular file")
    return found.st_size, found.st_mtime
