"""embex data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    from embedding_expansion.data.catalogue import Listing
    from embedding_expansion.data.inspection import SplitInspection

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
    from embedding_expansion.data.datasets import DATASETS
    from embedding_expansion.data.download import download

    is_check = not given.download and given.name != "list" and (given.what == "check" or given.name not in DATASETS)
    _refuse_what_only_a_check_takes(given.name, given.what, part=given.part, is_check=is_check)
    if is_check:
        return _check(given.name, root, part=given.part)
    if given.download:
        print(f"{given.name} lies in {download(given.name, root)}")
    elif given.name == "list":
        _list(describe(root), root)
    else:
        _describe(next(listing for listing in describe(root) if listing.name == given.name))
    return 0


def _refuse_what_only_a_check_takes(name: str, what: str | None, *, part: bool, is_check: bool) -> None:
    given = "--part" if part else what
    if not is_check and given is not None:
        example = "NAME_OR_PATH" if name == "list" else name
        raise InvalidInput(f"{given} goes with a check of one set only: embex data {example} check [--part]")


def _list(listings: list[Listing], root: Path | None) -> None:
    """One line for each set, and one on where they are looked for."""
    from embedding_expansion.data.sources import search_folders

    for listing in listings:
        names = ", ".join(folder for folder in listing.folders if folder != ".")
        looked_for = f", looked for as {names}" if names else ""
        print(f"{listing.name:<10}{listing.title}: {_where(listing)}{looked_for}")
    places = ", then ".join(str(folder.absolute()) for folder in search_folders(root))
    print(f"These folders are looked for in {places}, which may also hold a set itself; --root names another place.")
    print("embex data NAME says how to get a set.")


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
    if report.equal_bytes:
        (train, test), count = report.equal_bytes[0], len(report.equal_bytes)
        print(f"warning: {count:,} test images are byte for byte training images, the first: {test} and {train}")
    if report.left_out:
        print(report.left_out)
    broken = report.train.broken | report.test.broken
    for path, reason in broken.items():
        print(f"broken: {path}: {reason}")
    return 1 if broken else 0


def _describe_side(name: str, side: SplitInspection) -> None:
    marks = "" if side.queries is None else f", {side.queries} queries against {side.gallery}"
    print(f"{name}: {side.classes} classes, {side.images} images{marks}")
    print(f"  smallest class: {side.smallest_class} ({side.smallest_count}); of one image only: {side.single_classes}")
    if side.sizes is not None:
        (low_width, low_height), (high_width, high_height) = side.sizes
        print(f"  sizes: {low_width} x {low_height} to {high_width} x {high_height}")
