"""Time balanced expansion against expansion, the plain loss and the incumbent's plain loss.

    python benchmarks/balance.py --out balance.json

Forward and backward on the CPU, float32; medians of interleaved rounds in one process, with their spread.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import harness
from contenders import Incumbent, Ours, Row, choose
from harness import Batch, Contender, Step, milliseconds, race, ratio, table

FORMS: dict[str, dict[str, Any]] = {
    "expanded": {},
    "balanced": {"balance": True},
    "negative": {"scope": "negative"},
    "balanced negative": {"scope": "negative", "balance": True},
}


@dataclass(frozen=True)
class Form:
    """A form of expansion by name."""

    row: Row
    name: str

    def step(self, embeddings: Tensor, labels: Tensor) -> Step:
        return Ours(self.row, 2, "native", FORMS[self.name]).step(embeddings, labels)


def contenders(row: Row) -> list[Contender]:
    """Return the plain losses of both libraries, and the forms of ours."""
    theirs: list[Contender] = [Incumbent(row)] if row.peer else []
    return [*theirs, Ours(row, None), *(Form(row, name) for name in FORMS)]


def line(row: Row, b: int, times: dict[str, list[float]]) -> list[object]:
    """Return a row of the table: milliseconds, and what the bars are about."""
    both = statistics.median(times["expanded"]) + statistics.median(times["plain"])
    shares = [f"{statistics.median(times[name]) / both:.2f}" for name in ("balanced", "balanced negative")]
    return [
        row.name,
        b,
        *(milliseconds(times[name]) for name in ("plain", *FORMS)),
        *shares,
        str(ratio(times, "balanced", "expanded")),
        str(ratio(times, "balanced", "incumbent") or "-"),
    ]


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--losses", nargs="+", help="names of rows or of the registry; default: all")
    options.add_argument("--sizes", nargs="+", type=int, default=[128, 1024], help="rows of the batch")
    options.add_argument("--repeats", type=int, default=7, help="rounds")
    given = options.parse_args()
    if given.quick:
        given.sizes, given.losses, given.repeats = [32], given.losses or ["multi_similarity"], 1
    rows = [row for row in choose(given.losses)[0] if row.expandable]
    results, lines = [], []
    for row in rows:
        for b in given.sizes:
            outcome = race(contenders(row), Batch(b, 4, 512, True), given.repeats, given.threads, harness.limits(given))
            results.append({"loss": row.name, "b": b, "times": outcome.times, "failures": outcome.failures})
            lines.append(line(row, b, outcome.times))
            harness.write(given.out, {"machine": harness.machine(given.threads), "results": results})
    header = ["loss", "b", "plain, ms", *(f"{name}, ms" for name in FORMS), "balanced / (expanded + plain)"]
    header += ["balanced negative / (expanded + plain)", "balanced / expanded", "balanced / incumbent"]
    print(table(header, lines))


if __name__ == "__main__":
    main()
