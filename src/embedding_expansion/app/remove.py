"""The command embex remove."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import jsonargparse

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.next_step import print_next
from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    from embedding_expansion.retrieval.index import Index

WAYS = ("paths", "prefix", "label", "missing", "unfinished")


def run(arguments: list[str]) -> int:
    """Removes images from an index; returns the exit status, 1 if a named image is not in the index."""
    options = command(
        "remove",
        "Removes images from an index. The image files themselves are not touched.",
    )
    options.add_argument("index", type=str, help="the index: a folder, or a postgresql:// URL")
    options.add_argument("paths", type=str, nargs="*", help="image files; they need not exist any more")
    options.add_argument("--prefix", type=str | None, default=None, help="all images in this folder, at any depth")
    options.add_argument("--label", type=str | None, default=None, help="all images with this label")
    options.add_argument("--missing", action="store_true", help="all images whose file no longer exists")
    options.add_argument("--unfinished", action="store_true", help="the images of interrupted loads")
    options.add_argument("--dry_run", action="store_true", help="only print what would be removed")
    given = parse(options, arguments)
    ways = [name for name in WAYS if given[name]]
    if len(ways) != 1:
        chosen = " and ".join(ways) or "nothing"
        raise InvalidInput(f"{chosen} is given; pass exactly one of paths, {', '.join(f'--{way}' for way in WAYS[1:])}")

    from embedding_expansion.retrieval.index import open_index

    with open_index(given.index) as index:
        if given.unfinished:
            return _discard_unfinished(index, given.dry_run)
        where = _condition(index, given)
        count = index.count(where) if given.dry_run else index.remove(where)
        left = index.count() - (count if given.dry_run else 0)
        print(f"{index.location}: {count:,} images {'would be ' if given.dry_run else ''}removed, {left:,} left")
        if given.paths and count < len(where["path"]):
            print(f"embex: {len(where['path']) - count:,} of the paths are not in the index", file=sys.stderr)
            return 1
    print_next(["embex", "info", given.index])
    return 0


def _condition(index: Index, given: jsonargparse.Namespace) -> dict[str, Any]:
    if given.paths:
        return {"path": sorted({os.path.abspath(path) for path in given.paths})}
    if given.prefix:
        return {"path_prefix": os.path.join(os.path.abspath(given.prefix), "")}
    if given.label:
        return {"label": given.label}
    from embedding_expansion.inference.inventory import missing

    gone = missing(index)
    if gone and len(gone) == index.count():
        raise InvalidInput(
            f"the files of all {len(gone):,} images are missing, such as {gone[0]}; mount their disk, or remove them "
            "with --prefix"
        )
    return {"path": gone}


def _discard_unfinished(index: Index, dry_run: bool) -> int:
    for key, number in index.unfinished().items():
        if not dry_run:
            index.discard(key)
        print(f"{index.location}: {number:,} images {'would be ' if dry_run else ''}discarded: {key}")
    return 0
