"""embex duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.app.tables import MARKED, count, table, write_csv

if TYPE_CHECKING:
    from embedding_expansion.retrieval.duplicates import Duplicates
    from embedding_expansion.retrieval.index import Index, Item

#: Groups that are printed, and members of each; all of them stand in the CSV file.
GROUPS, MEMBERS = 20, 10
#: Further thresholds for which pairs are counted, so that one sees where to go.
STRICTER = (0.99, 0.995, 0.999)


def run(arguments: list[str]) -> int:
    """Finds the near-duplicates of an index; gives back the exit status."""
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
    return 0


def _options() -> jsonargparse.ArgumentParser:
    options = jsonargparse.ArgumentParser(
        prog="embex duplicates",
        exit_on_error=False,
        allow_abbrev=False,
        description="Finds the near-duplicates of an index: every two images are compared.",
    )
    options.add_argument("index", type=str, help="folder or postgresql:// URL of an index")
    options.add_argument(
        "--threshold",
        type=float | None,
        default=None,
        help="the least similarity of near-duplicates; default: 0.98, for copies saved anew or made smaller; 1 "
        "finds images whose embeddings are equal up to rounding, as those of equal files are. The "
        "calibrated thresholds are about classes and not used here",
    )
    options.add_argument("--csv", type=str | None, default=None, help=f"write all groups to this file; {MARKED}")
    options.add_argument("--html", type=str | None, default=None, help="write a page with pictures to this file")
    return options


def labels_differ(items: list[Item]) -> bool:
    """Whether near-duplicates have two labels, one of which is likely to be wrong."""
    return len({item.label for item in items if item.label is not None}) > 1


def _print(found: Duplicates, items: list[Item], threshold: float, *, is_default: bool) -> None:
    n, inside = len(items), sum(map(len, found.groups))
    print(f"{n:,} images, every two compared; near-duplicates from a similarity of {threshold:g}", end="")
    print(" (the default; --threshold sets another)" if is_default else "")
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
            f"{inside / n:.0%} of the images are near-duplicates by this threshold: this model puts images so close "
            "together that a higher one is needed"
        )


def _pairs_from(found: Duplicates, threshold: float) -> str:
    """How many pairs reach a higher threshold, as far as the pairs that were kept can tell."""
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
    from embedding_expansion.app.pages.copies import SHOWN_GROUPS, SHOWN_MEMBERS, Group, copies_page
    from embedding_expansion.app.pages.pictures import Album, common_folder
    from embedding_expansion.app.pages.rendering import write_page

    album = Album(index)
    groups = [
        Group(
            len(group),
            labels_differ([items[row] for row in group]),
            [(float(found.similarity[row]), album[items[row]]) for row in group[:SHOWN_MEMBERS].tolist()],
        )
        for group in found.groups[:SHOWN_GROUPS]
    ]
    facts = [
        ("index", index.location),
        ("images", f"{len(items):,}"),
        ("threshold", f"{threshold:g}"),
        ("near-duplicates", f"{sum(map(len, found.groups)):,} images, {found.number_of_pairs:,} pairs"),
    ]
    folder = common_folder(items[row].path for group in found.groups for row in group)
    write_page(path, copies_page(groups, len(found.groups), facts, folder))
