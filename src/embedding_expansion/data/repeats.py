"""Finds images that occur twice in a data set, by their paths or by their bytes.

An image that occurs twice is its own nearest neighbour, so even random vectors would reach a Recall@1 of 1.
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
    """Finds the first path that leads to the same file as an earlier path.

    Links are followed, also in the middle of a path. The files need not exist.

    Returns:
        The positions of the earlier path and of the repeated path; None if all files differ.
    """
    real_folder = lru_cache(maxsize=None)(os.path.realpath)  # there are few folders, and resolving them is slow
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
    """Finds the files of the second list that equal a file of the first list byte for byte.

    Files whose size occurs in both lists are compared by their digest. Empty and unreadable files are ignored.

    Returns:
        Pairs of the earliest equal file of the first list and the file of the second list.
    """
    sizes = [dict(_sizes(paths)) for paths in (first, second)]
    shared = set(sizes[0].values()) & set(sizes[1].values())
    alike = [[path for path, size in paths.items() if size in shared] for paths in sizes]
    with ThreadPoolExecutor() as threads:
        digests = [list(threads.map(_digest, paths)) for paths in alike]
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
        if stat.S_ISREG(found.st_mode) and found.st_size:  # reading from a pipe could block forever
            yield path, found.st_size


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unread {path}"
