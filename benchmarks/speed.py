"""Time every loss, expanded, against the incumbent's without expansion and against the bare Gram product.

    python benchmarks/speed.py --out speed.json --check

Forward and backward on the CPU, float32; medians of interleaved rounds in one process, with their spread.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
from bars import COMPARED, verdicts
from contenders import ROWS, GramProduct, Incumbent, Ours, Row, choose, searches
from harness import Batch, Contender, milliseconds, race, ratio, table
from limits import OUT_OF_MEMORY

SCALED = next(row for row in ROWS if row.name == "multi_similarity")
MANY = 1024  # limit on the segments of a class if there are too many
PARTS = ["losses", "points", "scaling"]


def comparisons(rows: list[Row], given: Namespace) -> Iterator[tuple[dict[str, Any], list[Contender], Batch]]:
    """Return the cases for every loss with n = 2, the incumbent's loss and the Gram product."""
    for clustered in given.embeddings:
        for k in given.per_class:
            for b in given.sizes:
                for row in rows:
                    ours = [Ours(row, 2, search) for search in searches()] if row.expandable else [Ours(row, None)]
                    theirs = [Incumbent(row)] if row.peer and k == COMPARED else []
                    about = {"part": "losses", "loss": row.name, "most": row.most, "expandable": row.expandable}
                    yield about, [GramProduct(), *theirs, *ours], Batch(b, k, given.d, clustered)


def points(given: Namespace) -> Iterator[tuple[dict[str, Any], list[Contender], Batch]]:
    """One loss with more points, beside the Gram product; infinity is searched in torch alone."""
    about = {"part": "points", "loss": SCALED.name, "expandable": True}
    ours = [*(Ours(SCALED, n, search) for search in searches() for n in (2, 8)), Ours(SCALED, math.inf, "torch")]
    for clustered in given.embeddings:
        for k in given.per_class:
            for b in given.sizes:
                yield about, [GramProduct(), *ours], Batch(b, k, given.d, clustered)


def scaling(given: Namespace) -> Iterator[tuple[dict[str, Any], list[Contender], Batch]]:
    """Return the cases for one loss with more images of a class, and the Gram product."""
    b = max(given.sizes)
    about = {"part": "scaling", "loss": SCALED.name, "expandable": True}
    for clustered in given.embeddings:
        for k in (k for k in (8, 16, 32, 64) if k < b // 2):
            ours = [Ours(SCALED, 2, search) for search in searches()]
            yield about, [GramProduct(), *ours], Batch(b, k, given.d, clustered)
        options = ({"max_segments": MANY}, {})
        ours = [Ours(SCALED, 2, search, some) for search in searches() for some in options]
        yield about, [GramProduct(), *ours], Batch(b, b // 2, given.d, clustered)


def measure(given: Namespace) -> dict[str, Any]:
    """Run all measurements. The JSON is written after each one, so an interrupted run keeps its results."""
    rows, left_out = choose(given.losses)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    work = list(comparisons(rows, given)) if "losses" in given.parts else []
    work += list(points(given)) if "points" in given.parts else []
    work += list(scaling(given)) if "scaling" in given.parts else []
    results: list[dict[str, Any]] = []
    report = {
        "what": "forward + backward, float32, seconds per call in every round",
        "machine": harness.machine(given.threads),
        "searches": searches(),
        "left_out": left_out,
        "results": results,
    }
    for i, (about, contenders, batch) in enumerate(work, start=1):
        outcome = race(contenders, batch, given.repeats, given.threads, harness.limits(given))
        results.append({**about, **vars(batch), "times": outcome.times, "failures": outcome.failures})
        harness.write(given.out, report)
        progress = f"{i}/{len(work)} {about['loss']}, b = {batch.b}, K = {batch.k}, {_kind(batch.clustered)}"
        print(progress, *(f"{name}: {why}" for name, why in outcome.failures.items()), sep="; ", file=sys.stderr)
    return report


def _kind(clustered: bool) -> str:
    return "clustered" if clustered else "unclustered"


def tables(report: dict[str, Any]) -> str:
    """Return Markdown: a table of losses per kind of embeddings and images per class; then more points, more images."""
    parts = []
    results = report["results"]
    groups = {(r["clustered"], r["k"]): None for r in results if r["part"] == "losses"}
    for clustered, k in groups:
        chosen = [r for r in results if (r["part"], r["clustered"], r["k"]) == ("losses", clustered, k)]
        parts.append(f"### {k} images of each class, {_kind(clustered)} embeddings, n = 2")
        parts.append(_losses(chosen, report["searches"]))
    for part, what in (("points", "more points"), ("scaling", "more images of a class")):
        scaled = [r for r in results if r["part"] == part]
        parts += [f"### {SCALED.name}, {what}", _scaled(scaled)] if scaled else []
    not_run = report["left_out"] | {
        name: why for r in results for name, why in r["failures"].items() if not _brief(why)
    }
    if not_run:
        parts += ["### Not run", "\n".join(f"- {name}: {why}" for name, why in not_run.items())]
    return "\n\n".join(parts)


def _losses(results: list[dict[str, Any]], forms: list[str]) -> str:
    header = ["loss", "b", "incumbent, ms", "incumbent / Gram"]
    header += [f"{form} {what}" for form in forms for what in ("ms", "/ incumbent", "/ Gram")]
    rows = []
    for r in results:
        row = [r["loss"], r["b"], _ms(r, "incumbent"), _ratio(r, "incumbent", "gram")]
        for form in forms:
            name = f"{form} n=2" if r["expandable"] else "plain"
            row += [_ms(r, name), _ratio(r, name, "incumbent"), _ratio(r, name, "gram")]
        rows.append(row if r["expandable"] else [f"{row[0]} (plain)", *row[1:]])
    return table(header, rows)


def _scaled(results: list[dict[str, Any]]) -> str:
    rows = [
        [_kind(r["clustered"]), r["b"], r["k"], name, _ms(r, name), _ratio(r, name, "gram")]
        for r in results
        for name in [*r["times"], *r["failures"]]
        if name != "gram"
    ]
    return table(["embeddings", "b", "images of a class", "search, points", "ms", "/ Gram"], rows)


def _ms(result: dict[str, Any], name: str) -> str:
    if name in result["failures"]:
        why: str = result["failures"][name]
        return why if _brief(why) else "not run"
    return milliseconds(result["times"][name]) if name in result["times"] else "-"


def _ratio(result: dict[str, Any], of: str, to: str) -> str:
    return str(ratio(result["times"], of, to) or "-")


def _brief(why: str) -> bool:
    """Return whether a limit ended the contender, which fits in a cell, and not an error."""
    return why == OUT_OF_MEMORY or why.startswith(">")


def arguments() -> Namespace:
    options = harness.parser(__doc__)
    options.add_argument("--losses", nargs="+", help="names of rows or of the registry; default: all")
    options.add_argument("--sizes", nargs="+", type=int, default=[128, 512, 1024])
    options.add_argument("--per-class", nargs="+", type=int, default=[4, 2])
    options.add_argument("--embeddings", nargs="+", choices=["clustered", "unclustered"])
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--check", action="store_true", help="compare with the bars; exit with 1 if one is missed")
    options.add_argument("--report", type=Path, help="measure nothing, print the tables of this JSON")
    given = options.parse_args()
    given.d = 512
    given.embeddings = [kind == "clustered" for kind in given.embeddings or ["clustered", "unclustered"]]
    if given.quick:
        given.sizes, given.d, given.repeats, given.embeddings = [32], 16, 2, [True]
        given.losses = given.losses or ["contrastive", "multi_similarity"]
    return given


def main() -> int:
    given = arguments()
    report = json.loads(given.report.read_text(encoding="utf-8")) if given.report else measure(given)
    print(tables(report))
    if not given.check:
        return 0
    checked = verdicts(report)
    print("\n### Bars\n")
    print(table(["bar", "what", "measured", "met"], [[*v[1:4], "yes" if v.met else "NO"] for v in checked]))
    for search in dict.fromkeys(verdict.search for verdict in checked):
        met = [verdict.met for verdict in checked if verdict.search == search]
        print(f"\n{search}: {sum(met)} of {len(met)} met, {len(met) - sum(met)} missed.")
    in_use = report["searches"][0]  # the other form is reported, but does not fail the check
    return 1 if any(not v.met for v in checked if v.search in (in_use, "plain")) else 0


if __name__ == "__main__":
    sys.exit(main())
