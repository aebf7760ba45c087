"""embex data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    from embedding_expansion.data.catalogue import Listing
    from embedding_expansion.data.inspection import SideReport

DESCRIPTION = """embex data: lists the data sets. embex data NAME: what a set is, where it is looked for, how to get it.
embex data NAME --download: fetches it. embex data NAME_OR_PATH check: opens it and decodes every image."""


def run(arguments: list[str]) -> int:
    """Lists, describes, downloads or checks data sets; the exit status is 1 where a check finds broken images."""
    options = jsonargparse.ArgumentParser(
        prog="embex data", exit_on_error=False, allow_abbrev=False, description=DESCRIPTION
    )
    options.add_argument("name", type=str, nargs="?", default="list", help="list, a data set's name, or a path")
    options.add_argument("what", type=str, nargs="?", default=None, help="check: open it and decode every image")
    options.add_argument("--download", action="store_true", help="fetch it")
    options.add_argument("--root", type=str | None, default=None, help="folder that holds data sets")
    options.add_argument("--part", action="store_true", help="accept a part of the set")
    given = parse(options, arguments)
    if given.what not in (None, "check"):
        raise InvalidInput(f"{given.what!r} is nothing to do with a data set; pass check, or --download")
    root = None if given.root is None else Path(given.root)

    from embedding_expansion.data.catalogue import describe
    from embedding_expansion.data.download import download

    listings = {listing.name: listing for listing in describe(root)}
    if given.download:
        print(f"{given.name} lies in {download(given.name, root)}")
        return 0
    if given.name == "list":
        for listing in listings.values():
            how = "" if listing.is_embedded or listing.found else f"; embex data {listing.name} says how to get it"
            print(f"{listing.name:<10}{listing.title}: {_where(listing)}{how}")
        return 0
    if given.what is None and given.name in listings:
        _describe(listings[given.name])
        return 0
    return _check(given.name, root, part=given.part)


def _where(listing: Listing) -> str:
    if listing.is_embedded:
        return "comes with the package"
    return f"found in {listing.found}" if listing.found else "not found"


def _describe(listing: Listing) -> None:
    print(f"{listing.title}: {listing.what}")
    print(f"train: {listing.counts.train}; test: {listing.counts.test}")
    print(f"page: {listing.page}; licence: {listing.licence}")
    print(f"here: {_where(listing)}")
    for folder in listing.looked_for:
        print(f"looked for in {folder}")
    if listing.downloadable:
        print(f"to fetch it: embex data {listing.name} --download")
    elif listing.instructions:
        print(f"to get it: {listing.instructions}")


def _check(name: str, root: Path | None, *, part: bool) -> int:
    from embedding_expansion.data.datasets import open_dataset
    from embedding_expansion.data.inspection import inspect_dataset

    report = inspect_dataset(open_dataset(name, root=root, part=part))
    print(report.name)
    _describe_side("train", report.train)
    _describe_side("test", report.test)
    if report.shared_classes:
        print(f"warning: classes on both sides, so the test is not zero-shot: {', '.join(report.shared_classes[:5])}")
    broken = report.train.broken | report.test.broken
    for path, reason in broken.items():
        print(f"broken: {path}: {reason}")
    return 1 if broken else 0


def _describe_side(name: str, side: SideReport) -> None:
    marks = "" if side.queries is None else f", {side.queries} queries against {side.gallery}"
    print(f"{name}: {side.classes} classes, {side.images} images{marks}")
    print(f"  smallest class: {side.smallest_class} ({side.smallest_count}); of one image only: {side.single_classes}")
    if side.sizes is not None:
        (low_width, low_height), (high_width, high_height) = side.sizes
        print(f"  sizes: {low_width} x {low_height} to {high_width} x {high_height}")
