"""The output of `embex index` and `embex add`: a progress bar, then a summary of the load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from embedding_expansion.runs.heartbeat import Heartbeat

if TYPE_CHECKING:
    from embedding_expansion.inference.indexing import IndexingReport
    from embedding_expansion.inference.streaming import Progress
    from embedding_expansion.retrieval.index import Index


@contextmanager
def progress_bar(*, stopped: str = "the embedded images are saved") -> Iterator[Progress]:
    """A progress bar on a terminal, elsewhere a line every 30 seconds.

    After Ctrl+C, a line says what was `stopped`, and how to continue.
    """
    from tqdm import tqdm

    shown = tqdm(unit="image", disable=not sys.stderr.isatty(), leave=False)
    heartbeat, before = Heartbeat(), -1

    def progress(done: int, total: int) -> None:
        nonlocal before
        before = done if before < 0 else before  # images that an earlier run has done
        shown.total = total
        shown.update(done - shown.n)
        if heartbeat.is_due():
            rate = (done - before) / heartbeat.seconds
            print(f"{done:,} of {total:,} images, {rate:.1f} images/s", file=sys.stderr, flush=True)

    try:
        yield progress
    except KeyboardInterrupt:
        shown.close()
        print(f"embex: {stopped}; run the same command again to continue", file=sys.stderr)
        raise
    finally:
        shown.close()


def print_report(report: IndexingReport, location: str, what: str = "images") -> int:
    """Prints what a load did and how the index is searched; returns the exit status."""
    from embedding_expansion.retrieval.index import open_index

    with open_index(location) as index:
        done = [f"{report.new:,} new", f"{report.changed:,} changed", f"{report.unchanged:,} unchanged and skipped"]
        if report.resumed:
            done.append(f"{report.resumed:,} embedded by an earlier run")
        print(f"{index.count():,} {what} in {index.location}: {', '.join(done)}")
        print_search(index)
        print_known(index)
        print_unfinished(index)
    if report.left_out:
        print(f"embex: {report.left_out}", file=sys.stderr)
    if report.unlabelled:
        print(
            f"embex: {report.unlabelled:,} images have no label, because the table does not list them", file=sys.stderr
        )
    if report.foreign:
        number, first = len(report.foreign), report.foreign[0]
        print(f"embex: {number:,} rows of the table match none of these images, the first: {first}", file=sys.stderr)
    for path, reason in report.broken.items():
        print(f"embex: skipped {path}: {reason}", file=sys.stderr)
    return 1 if report.broken else 0


def print_search(index: Index) -> None:
    """Prints how the index is searched, and the recall of an approximate search."""
    print(f"search: {index.reason}")
    if index.recall is not None:
        found = index.recall
        print(
            f"recall: {found.value:.3f} of the {found.k} nearest neighbours of an exact search, measured on "
            f"{found.queries} images"
        )


def print_known(index: Index) -> None:
    """Prints from which similarity the index knows a query, or why it does not say."""
    from embedding_expansion.inference.gallery import known_from, thresholds_of

    limit = known_from(index, thresholds_of(index))
    text = "" if limit.value is None else f"a query is known from a similarity of {limit.value:.3f} on"
    if text or limit.reason:
        print(f"known or unknown: {'; '.join(filter(None, (text, limit.reason)))}")


def print_unfinished(index: Index) -> None:
    """Prints unfinished loads on stderr."""
    for key, number in index.unfinished().items():
        print(
            f"embex: an unfinished load holds {number:,} images: {key}; run its command again to finish it, or "
            "discard it with embex remove INDEX --unfinished",
            file=sys.stderr,
        )
