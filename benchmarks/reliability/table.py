"""Make the table of docs/reliability.md again: cause faults of all kinds, and count how many are survived.

    python benchmarks/reliability/table.py --write

Each part can also run alone: runs.py, indexes.py, server.py and parsers.py. The script needs Linux and takes some
minutes on two cores. If a disk cannot be mounted, its row says that none was tried.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Iterable
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import indexes
import parsers
import server
from faults import Count

import runs

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- counts -->\n", "<!-- end of counts -->\n"
#: Formats of other programs, with more faults than other kinds.
MANY = ("mat", "npz")


def parts(share: float, seed: int) -> dict[str, Iterable[tuple[str, int, int]]]:
    """Yield the counts of every part as they are made, for a `share` of the faults on the page."""

    def times(tries: int) -> int:
        return max(1, round(share * tries))

    others = [name for name in parsers.kinds() if name not in MANY]
    return {
        "Training": runs.counts(times(20), seed),
        "Indexes": indexes.counts(times(60), seed),
        "Server": server.counts(times(20), seed),
        "Damaged files": chain(parsers.counts(list(MANY), times(300), seed), parsers.counts(others, times(40), seed)),
    }


def main() -> None:
    """Print the table, and write it into the page if requested."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--share", type=float, default=1.0, help="share of the faults on the page")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    given = options.parse_args()
    lines = ["| part | fault | tried | survived |", "|---|---|---:|---:|"]
    print("\n".join(lines), flush=True)
    for part, counts in parts(given.share, given.seed).items():
        for count in map(Count._make, counts):
            lines.append(f"| {part} | {count.kind} | {count.tried} | {count.survived} |")
            print(lines[-1], flush=True)
    if given.write:
        made = f"CPython {platform.python_version()}, torch {version('torch')}, seed {given.seed}:\n\n"
        table = BEGIN + made + "\n".join(lines) + "\n" + END
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: table, page, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
