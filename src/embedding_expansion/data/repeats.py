"""The same image twice in a data set: by its path, or by its bytes.

An image that is there twice is its own nearest neighbour, so that even random vectors have a Recall@1 of 1.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path


def first_repeat(paths: Iterable[Path]) -> tuple[int, int] | None:
    """The positions of the first path that leads to a file which a path before it leads to, and of that one.

    Links are followed, also those in the middle of a path; a file need not be there.
    """
    real_folder = lru_cache(maxsize=None)(os.path.realpath)  # folders are few, and looking them up is what takes long
    positions: dict[str, int] = {}
    for position, path in enumerate(paths):
        if path.name == ".." or path.is_symlink():
            real = os.path.realpath(path)
        else:
            real = os.path.join(real_folder(path.parent), path.name)
        before = positions.setdefault(real, position)
        if before != position:
            return before, position
    return None


def equal_bytes(first: Iterable[Path], second: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Each file of the second side that is byte for byte one of the first, after the earliest that it is.

    Files are compared by a digest, those that share their size with one of the other side. Empty files, and what
    cannot be read, are equal to nothing.
    """
    sizes = [dict(_sizes(side)) for side in (first, second)]
    shared = set(sizes[0].values()) & set(sizes[1].values())
    alike = [[path for path, size in side.items() if size in shared] for side in sizes]
    with ThreadPoolExecutor() as threads:
        digests = [list(threads.map(_digest, side)) for side in alike]
    there: dict[str, Path] = {}
    for path, digest in zip(alike[0], digests[0], strict=True):
        there.setdefault(digest, path)
    return [(there[digest], path) for path, digest in zip(alike[1], digests[1], strict=True) if there.get(digest)]


def _sizes(paths: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_size:  # to read from a pipe could take for ever
            yield path, found.st_size


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unread {path}"
