"""The command embex duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.next_step import after_duplicates, print_next
from embedding_expansion.app.tables import MARKED, count, table, write_csv

if TYPE_CHECKING:
    from embedding_expansion.app.pages.pictures import PageImage
    from embedding_expansion.retrieval.duplicates import Duplicates
    from embedding_expansion.retrieval.index import Index, Item

#: Number of groups that are printed, and of members per group. The CSV file contains all of them.
GROUPS, MEMBERS = 20, 10
#: Higher thresholds with a count of their pairs, as a help to choose one.
STRICTER = (0.99, 0.995, 0.999)
#: Groups on the HTML page, and pictures per group.
PAGE_GROUPS, PAGE_MEMBERS = 200, 24


@dataclass(frozen=True)
class CopyGroup:
    """A group of near-duplicates on the HTML page.

    Attributes:
        size: the number of its images.
        labels_differ: whether its images have different labels.
        members: the images shown, each with its similarity to the most similar image of the group.
    """

    size: int
    labels_differ: bool
    members: list[tuple[float, PageImage]]


def run(arguments: list[str]) -> int:
    """Finds the near-duplicates in an index; returns the exit status."""
    given = parse(_options(), arguments)

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.inference.gathering import gathered
    from embedding_expansion.retrieval.duplicates import THRESHOLD, check_threshold, near_duplicates
    from embedding_expansion.retrieval.index import open_index

    threshold = check_threshold(THRESHOLD if given.threshold is None else given.threshold)
    with outputs(csv=given.csv, html=given.html), open_index(given.index) as index:
        items, vectors = gathered(index)
        found = near_duplicates(vectors, threshold)
        _print(found, items, threshold, is_default=given.threshold is None)
        if given.csv is not None:
            _write_csv(found, items, Path(given.csv))
            print(f"table: {given.csv}")
        if given.html is not None:
            _write_page(found, items, index, threshold, Path(given.html))
            print(f"page: {given.html}")
        print_next(after_duplicates(given.index, [items[row].path for group in found.groups for row in group[1:]]))
    return 0


def _options() -> jsonargparse.ArgumentParser:
    options = command(
        "duplicates",
        "Finds near-duplicates in an index. All pairs of images are compared.",
    )
    options.add_argument("index", type=str, help="the index: a folder, or a postgresql:// URL")
    options.add_argument(
        "--threshold",
        type=float | None,
        default=None,
        help="smallest similarity of near-duplicates; default: 0.98, which finds copies that were resaved or resized; "
        "1 finds images whose embeddings are equal up to rounding, such as identical files. The calibrated thresholds "
        "are not used, because they are about classes",
    )
    options.add_argument("--csv", type=str | None, default=None, help=f"write all groups to this file; {MARKED}")
    options.add_argument("--html", type=str | None, default=None, help="write an HTML page with pictures to this file")
    return options


def labels_differ(items: list[Item]) -> bool:
    """Whether near-duplicates have different labels, so that one label is probably wrong."""
    return len({item.label for item in items if item.label is not None}) > 1


def _print(found: Duplicates, items: list[Item], threshold: float, *, is_default: bool) -> None:
    n, inside = len(items), sum(map(len, found.groups))
    hint = " (the default; change it with --threshold)" if is_default else ""
    print(f"{n:,} images, all pairs compared; near-duplicates have a similarity of at least {threshold:g}{hint}")
    print(f"{count(len(found.groups), 'group')}, {count(inside, 'image')}, {count(found.number_of_pairs, 'pair')}")
    if found.number_of_pairs:
        print(", ".join(f"from {at:g}: {_pairs_from(found, at)}" for at in STRICTER if at > threshold), end="\n\n")
    for number, group in enumerate(found.groups[:GROUPS], start=1):
        members = [items[row] for row in group]
        print(f"group {number}: {count(len(group), 'image')}{', labels differ' if labels_differ(members) else ''}")
        rows = [
            [f"{found.similarity[row]:.4f}", items[row].label or "–", items[row].path]
            for row in group[:MEMBERS].tolist()
        ]
        print(table(["similarity", "label", "path"], rows, right=(0,)))
        print(f"and {len(group) - MEMBERS:,} more\n" if len(group) > MEMBERS else "")
    if len(found.groups) > GROUPS:
        print(f"and {count(len(found.groups) - GROUPS, 'more group')}; --csv writes all of them")
    if 2 * inside > n and n >= GROUPS:
        print(
            f"{inside / n:.0%} of the images are near-duplicates at this threshold: the embeddings of this model are "
            "so similar that you need a higher one"
        )


def _pairs_from(found: Duplicates, threshold: float) -> str:
    """The number of pairs that reach a higher threshold. It is a lower bound if not all pairs were stored."""
    there = int((found.similarities >= threshold).sum())
    is_cut = there == len(found.pairs) < found.number_of_pairs
    return f"more than {there:,} pairs" if is_cut else count(there, "pair")


def _write_csv(found: Duplicates, items: list[Item], path: Path) -> None:
    from embedding_expansion.files import write_atomically

    heads = ("group", "path", "label", "similarity", "most_similar")
    rows = (
        (number, items[row].path, items[row].label, float(found.similarity[row]), items[int(found.closest[row])].path)
        for number, group in enumerate(found.groups, start=1)
        for row in group.tolist()
    )
    write_atomically(path, lambda partial: write_csv(partial, heads, rows))


def _write_page(found: Duplicates, items: list[Item], index: Index, threshold: float, path: Path) -> None:
    from embedding_expansion.app.pages.pictures import PageImages, common_folder
    from embedding_expansion.app.pages.rendering import render, write_page

    images = PageImages(index)
    groups = [
        CopyGroup(
            len(group),
            labels_differ([items[row] for row in group]),
            [(float(found.similarity[row]), images[items[row]]) for row in group[:PAGE_MEMBERS].tolist()],
        )
        for group in found.groups[:PAGE_GROUPS]
    ]
    folder = common_folder(items[row].path for group in found.groups for row in group)
    facts = [
        ("index", index.location),
        ("images", f"{len(items):,}"),
        ("threshold", f"{threshold:g}"),
        ("near-duplicates", f"{sum(map(len, found.groups)):,} images, {found.number_of_pairs:,} pairs"),
        *([("folder", folder)] if folder else []),
    ]
    total = len(found.groups)
    title = f"{count(total, 'group')} of near-duplicates" if groups else "No near-duplicates"
    content = {"facts": facts, "groups": groups, "total": total, "above": len(folder)}
    write_page(path, render("copies.html", kicker="Near-duplicates", title=title, **content))
