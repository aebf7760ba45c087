"""What `embex index` and `embex add` show: a bar while images stream by, then what was done, and what was left out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedding_expansion.inference.indexing import Report
    from embedding_expansion.inference.streaming import Progress
    from embedding_expansion.retrieval.index import Index


@contextmanager
def bar() -> Iterator[Progress]:
    """A bar on a terminal, which an interruption turns into a line that says how to go on."""
    from tqdm import tqdm

    shown = tqdm(unit="image", disable=not sys.stderr.isatty(), leave=False)

    def progress(done: int, total: int) -> None:
        shown.total = total
        shown.update(done - shown.n)

    try:
        yield progress
    except KeyboardInterrupt:
        shown.close()
        print("embex: what is embedded is kept unseen in the index; the same command goes on", file=sys.stderr)
        raise
    finally:
        shown.close()


def say(report: Report, location: str, what: str = "images") -> int:
    """Prints what a load has done and how the index is searched now; gives back the exit status."""
    from embedding_expansion.retrieval.index import open_index

    with open_index(location) as index:
        done = [f"{report.new:,} new", f"{report.changed:,} changed", f"{report.unchanged:,} unchanged and skipped"]
        if report.resumed:
            done.append(f"{report.resumed:,} embedded by an earlier try")
        print(f"{index.count():,} {what} in {index.location}: {', '.join(done)}")
        say_search(index)
        say_unfinished(index)
    if report.left_out:
        print(f"embex: {report.left_out}", file=sys.stderr)
    if report.unlabelled:
        print(f"embex: {report.unlabelled:,} images are not in the table and have no label", file=sys.stderr)
    if report.foreign:
        number, first = len(report.foreign), report.foreign[0]
        print(f"embex: {number:,} rows of the table are no image of these, the first: {first}", file=sys.stderr)
    for path, reason in report.broken.items():
        print(f"embex: left out {path}: {reason}", file=sys.stderr)
    return 1 if report.broken else 0


def say_search(index: Index) -> None:
    """Prints the kind and why, and what an approximate one finds."""
    print(f"search: {index.reason}")
    if index.recall is not None:
        found = index.recall
        print(
            f"recall: {found.value:.3f} of the {found.k} nearest that an exact search finds, measured with "
            f"{found.queries} of the images"
        )


def say_unfinished(index: Index) -> None:
    """Prints on stderr which loads wait to be gone on with."""
    for key, number in index.unfinished().items():
        print(
            f"embex: an unfinished load holds {number:,} images: {key}; go on with its command, or give it up: embex "
            "remove INDEX --unfinished",
            file=sys.stderr,
        )
