"""The command embex compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_expansion.app.arguments import add_data, command, parse
from embedding_expansion.app.next_step import after_run, print_next
from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    import jsonargparse

    from embedding_expansion.training.compared import Compared


def run(arguments: list[str]) -> int:
    """Compares runs; returns the exit status."""
    given = parse(_options(), arguments)
    if len(given.runs) < 2:
        raise InvalidInput("there is one run only; pass two or more, the baseline first")

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.files import write_json
    from embedding_expansion.training.compared import compare_runs

    changes = {name: given[name] for name in ("root", "part") if given[name] is not None}
    with outputs(html=given.html, json=given.json):
        found = compare_runs(given.runs, given.data, changes)
        for each in found:
            for change in each.tested.job.changes:
                print(f"embex: changed since {each.name} was trained: {change}", file=sys.stderr)
        _print(found)
        if given.json is not None:
            write_json(Path(given.json), _as_json(found))
        if given.html is not None:
            from embedding_expansion.app.pages.comparison import write_comparison_page

            write_comparison_page(found, Path(given.html))
            print(f"page: {given.html}")
        print_next(after_run(max(found, key=lambda each: each.mean("recall_at_1")).name))
    return 0


def _options() -> jsonargparse.ArgumentParser:
    options = command(
        "compare",
        "Compares runs on the same test images, query by query: the differences of all runs to the first one, with 95% "
        "intervals. These take the queries as independent. They say nothing about other classes or another seed.",
    )
    options.add_argument("runs", type=str, nargs="+", help="run folders, the baseline first")
    add_data(options, "that of the runs")
    options.add_argument("--html", type=str | None, default=None, help="write a page with pictures to this file")
    options.add_argument("--json", type=str | None, default=None, help="write the figures to this file")
    return options


def _print(found: list[Compared]) -> None:
    from embedding_expansion.app.tables import plain, table
    from embedding_expansion.training.compared import MEASURES

    first = found[0]
    queries = len(first.values["recall_at_1"])
    print(f"{first.tested.job.dataset.name}: {queries:,} queries; differences to {plain(first.name)} in points")
    rows = [
        [
            plain(each.name),
            *(cell for measure in MEASURES for cell in (f"{each.mean(measure):.3f}", each.shown(measure))),
        ]
        for each in found
    ]
    heads = ["run", *(head for title in MEASURES.values() for head in (title, "difference"))]
    print(table(heads, rows, right=range(1, len(heads))))


def _as_json(found: list[Compared]) -> dict[str, Any]:
    from embedding_expansion.training.compared import MEASURES

    return {
        "data": found[0].tested.job.dataset.name,
        "queries": len(found[0].values["recall_at_1"]),
        "runs": [
            {
                "run": each.name,
                "measures": {measure: each.mean(measure) for measure in MEASURES},
                "differences": {
                    measure: {"mean": one.mean, "low": one.low, "high": one.high, "p": one.p}
                    for measure, one in each.differences.items()
                },
            }
            for each in found
        ],
    }
