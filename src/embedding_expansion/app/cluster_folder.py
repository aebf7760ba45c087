"""Writes the folder of embex cluster: a table, HTML pages, and a folder of links for each cluster."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from embedding_expansion.app.pages.clusters import name_of, write_pages
from embedding_expansion.app.pages.pictures import PageImages, file_name
from embedding_expansion.app.tables import write_csv
from embedding_expansion.files import make_folder
from embedding_expansion.inference.clusters import Clustering
from embedding_expansion.retrieval.index import Index, Item

NAME_BYTES = 255  # the longest file name of common file systems


def write_folder(
    out: Path,
    items: list[Item],
    found: Clustering,
    measures: dict[str, int | float],
    index: Index | None,
    source: str,
    *,
    links: bool,
) -> int:
    """Writes the folder completely, or not at all.

    Args:
        out: the folder, which must be new or empty.
        items: the clustered items.
        found: their clusters.
        measures: agreement with the labels; empty without labels.
        index: the index of the items, if any; it provides the thumbnails.
        source: what was clustered, in words.
        links: whether to make a folder of symbolic links for each cluster.

    Returns:
        The number of images without a link, because their file is missing.

    Raises:
        RunError: the folder is not empty, or cannot be written.
    """
    left_out = 0

    def fill(folder: Path) -> None:
        nonlocal left_out
        _write_table(folder / "clusters.csv", items, found)
        write_pages(folder, items, found, PageImages(index), measures, source)
        if links:
            (folder / "members").mkdir()
            for number in range(-1 if found.noise else 0, len(found.sizes)):
                paths = [items[row].path for row in found.members(number)]
                left_out += _link(folder / "members" / name_of(number, len(found.sizes)), paths)

    make_folder(out, fill)
    return left_out


def _write_table(path: Path, items: list[Item], found: Clustering) -> None:
    representatives = set(found.representatives.tolist())
    heads = ("path", "cluster", "similarity", "is_representative", "label")
    rows = (
        (item.path, number, None if number < 0 else float(found.similarity[row]), row in representatives, item.label)
        for row, (item, number) in enumerate(zip(items, found.cluster.tolist(), strict=True))
    )
    write_csv(path, heads, rows)


def _link(folder: Path, paths: list[str]) -> int:
    """Makes a folder of symbolic links with the names of their files; returns the number of missing files."""
    folder.mkdir()
    missing, taken, given = 0, set[str](), Counter[str]()
    for path in map(os.path.abspath, paths):
        if not os.path.lexists(path):
            missing += 1
            continue
        name = own = file_name(path)
        while name in taken:
            given[own] += 1
            name = _numbered(own, given[own] + 1)
        taken.add(name)
        os.symlink(path, folder / name)
    return missing


def _numbered(name: str, number: int) -> str:
    """Inserts a number before the extension, and shortens the name if it gets too long."""
    stem, ending = os.path.splitext(name)
    behind = os.fsencode(f"-{number}{ending}")
    return os.fsdecode(os.fsencode(stem)[: NAME_BYTES - len(behind)] + behind)
