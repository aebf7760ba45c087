"""What is on disk against what is in an index: which images must be embedded, which only labelled, which are gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedding_expansion.data.finding import ImageFile
from embedding_expansion.inference.labels import OWN, Labels
from embedding_expansion.retrieval.index import Index, Item

#: Files that are looked up in the index at a time.
CHUNK = 1024


@dataclass(frozen=True)
class Entry:
    """An image as it should stand in the index.

    Attributes:
        path: absolute.
        label: its class, or None.
        metadata: what else is known of it, the file's own facts left out.
        size: of the file, in bytes.
        mtime: when it was last written, in seconds.
    """

    path: str
    label: str | None
    metadata: Mapping[str, Any]
    size: int
    mtime: float

    @property
    def file_facts(self) -> dict[str, Any]:
        """The metadata by which it is told whether the file has changed."""
        return {"bytes": self.size, "mtime": self.mtime}


@dataclass(frozen=True)
class Plan:
    """What is to be done to an index.

    Attributes:
        embed: images that are new, or whose file has changed.
        relabel: images whose file is as it was, but whose label or metadata are not.
        unchanged: how many are as they were altogether.
        broken: path -> reason, for what is no file that could be read.
    """

    embed: list[Entry] = field(default_factory=list)
    relabel: list[Entry] = field(default_factory=list)
    unchanged: int = 0
    broken: dict[str, str] = field(default_factory=dict)


def compare(index: Index, files: Iterable[ImageFile], labels: Labels, *, keep: bool) -> Plan:
    """Compares images with the items of an index, by path, size and time of the file, label and metadata.

    Args:
        index: to look into.
        files: images; the same file twice counts once.
        labels: what there is to say of them.
        keep: images that are in the index keep what is said of them there.
    """
    embed, relabel, unchanged, broken = list[Entry](), list[Entry](), 0, dict[str, str]()
    folders: dict[str, str | None] = {}
    for file in files:
        folders.setdefault(os.path.abspath(file.path), file.folder)
    paths_of_all = list(folders)
    for start in range(0, len(paths_of_all), CHUNK):
        paths = paths_of_all[start : start + CHUNK]
        there = {item.path: item for items in index.items({"path": paths}, size=CHUNK) for item in items}
        for path in paths:
            try:
                size, mtime = _stamp(path)
            except OSError as error:
                broken[path] = f"{error.strerror or error}; restore it, or take it off the list"
                continue
            item = there.get(path)
            label, metadata = labels.of(path, folders[path])
            if item is not None and keep:
                label, metadata = item.label, _said(item)
            entry = Entry(path, label, metadata, size, mtime)
            if item is None or not entry.file_facts.items() <= item.metadata.items():
                embed.append(entry)
            elif (item.label, _said(item)) != (label, metadata):
                relabel.append(entry)
            else:
                unchanged += 1
    return Plan(embed, relabel, unchanged, broken)


def missing(index: Index) -> list[str]:
    """The paths of items whose file is gone from the disk.

    A file that cannot be looked at for another reason, such as a folder that may not be entered, is not gone.
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


def _said(item: Item) -> dict[str, Any]:
    return {name: value for name, value in item.metadata.items() if name not in OWN}


def _stamp(path: str) -> tuple[int, float]:
    """Size and time of a file.

    Raises:
        OSError: it cannot be looked at, or is no plain file: to read from a pipe could take for ever.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is no plain file")
    return found.st_size, found.st_mtime
