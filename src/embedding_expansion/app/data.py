"""The command embex data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.next_step import print_next, typed
from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    from embedding_expansion.data.catalogue import Listing
    from embedding_expansion.data.inspection import SplitInspection

DESCRIPTION = """embex data: lists the data sets. embex data NAME: describes a data set, where it is searched for and
how to get it. embex data NAME --download: downloads it. embex data NAME_OR_PATH check: opens it and decodes every
image. embex data prepare NAME_OR_PATH: shrinks its images once, so that training need not decode large files (embex
data prepare --help)."""


def run(arguments: list[str]) -> int:
    """Lists, describes, downloads, checks or shrinks data sets; returns the exit status, 1 if images are broken."""
    if arguments[:1] == ["prepare"]:
        from embedding_expansion.app import prepare

        return prepare.run(arguments[1:])
    options = command("data", DESCRIPTION)
    options.add_argument("name", type=str, nargs="?", default="list", help="list, the name of a data set, or a path")
    options.add_argument(
        "what", type=str, nargs="?", default=None, help="check: open the data set and decode every image"
    )
    options.add_argument("--download", action="store_true", help="download the data set")
    options.add_argument("--root", type=str | None, default=None, help="folder that contains data sets")
    options.add_argument("--part", action="store_true", help="accept an incomplete data set")
    given = parse(options, arguments)
    if given.what not in (None, "check"):
        raise InvalidInput(f"{given.what!r} is not an action of embex data; pass check, or --download")
    root = None if given.root is None else Path(given.root)

    from embedding_expansion.data.catalogue import describe
    from embedding_expansion.data.datasets import DATASETS
    from embedding_expansion.data.download import download

    is_check = not given.download and given.name != "list" and (given.what == "check" or given.name not in DATASETS)
    _refuse_options_of_check(given.name, given.what, part=given.part, is_check=is_check)
    if is_check:
        return _check(given.name, root, part=given.part)
    if given.download:
        print(f"{given.name} is in {download(given.name, root)}")
    elif given.name == "list":
        _list(describe(root), root)
    else:
        _describe(next(listing for listing in describe(root) if listing.name == given.name))
    return 0


def _refuse_options_of_check(name: str, what: str | None, *, part: bool, is_check: bool) -> None:
    given = "--part" if part else what
    if not is_check and given is not None:
        example = "NAME_OR_PATH" if name == "list" else name
        raise InvalidInput(f"{given} is only valid for checking a data set: embex data {example} check [--part]")


def _list(listings: list[Listing], root: Path | None) -> None:
    """Prints a line per data set, and the folders in which they are searched for."""
    from embedding_expansion.data.sources import search_folders

    for listing in listings:
        names = ", ".join(folder for folder in listing.folders if folder != ".")
        folders = f", searched for as {names}" if names else ""
        print(f"{listing.name:<10}{listing.title}: {_where(listing)}{folders}")
    places = ", then ".join(str(folder.absolute()) for folder in search_folders(root))
    print(f"These folders are searched for in {places}. A data set can also lie directly there.")
    print("--root names another place. embex data NAME explains how to get a data set.")


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
        print(f"searched for in {folder}")
    if listing.downloadable:
        print(f"to download it: embex data {listing.name} --download")
    elif listing.instructions:
        print(f"to get it: {listing.instructions}")


def _check(name: str, root: Path | None, *, part: bool) -> int:
    from embedding_expansion.data.datasets import open_dataset
    from embedding_expansion.data.inspection import inspect_dataset

    dataset = open_dataset(name, root=root, part=part)
    report = inspect_dataset(dataset)
    print(report.name)
    if dataset.prepared is not None:
        print(dataset.prepared.described)
    _print_split("train", report.train)
    _print_split("test", report.test)
    if report.shared_classes:
        shared = ", ".join(report.shared_classes[:5])
        print(f"warning: train and test share classes, so the test is not zero-shot: {shared}")
    if report.equal_bytes:
        (train, test), count = report.equal_bytes[0], len(report.equal_bytes)
        print(f"warning: {count:,} test images are identical to training images, the first: {test} and {train}")
    if dataset.prepared is not None and (changes := dataset.prepared.changes()):
        print(f"warning: {changes}")
    if report.left_out:
        print(report.left_out)
    broken = report.train.broken | report.test.broken
    options = {"data": name, "data.root": root, "data.part": part}
    print_next(["embex", "train", *typed({option: value for option, value in options.items() if value})])
    for path, reason in broken.items():
        print(f"broken: {path}: {reason}")
    return 1 if broken else 0


def _print_split(name: str, side: SplitInspection) -> None:
    marks = "" if side.queries is None else f", {side.queries} queries against {side.gallery}"
    print(f"{name}: {side.classes} classes, {side.images} images{marks}")
    smallest = f"{side.smallest_class} ({side.smallest_count})"
    print(f"  smallest class: {smallest}; classes with one image: {side.single_classes}")
    if side.sizes is not None:
        (low_width, low_height), (high_width, high_height) = side.sizes
        print(f"  sizes: {low_width} x {low_height} to {high_width} x {high_height}")
