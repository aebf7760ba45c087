"""Shared by all counts of faults."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Count(NamedTuple):
    """The number of faults of one kind that were tried, and that were survived."""

    kind: str
    tried: int
    survived: int


class Said(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def is_sentence(self) -> bool:
        """Whether the command refused correctly: status 2 and one line on stderr."""
        return self.status == 2 and self.err.count("\n") == 1 and self.err.startswith("embex: ")


def print_table(about: str | None, counts: Callable[[int, int], Iterable[Count]], tries: int) -> None:
    """Run the command line of one part, and print `counts(tries, seed)` as a table."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--tries", type=int, default=tries, help="faults of an ordinary kind; other kinds in proportion"
    )
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    print("| fault | tried | survived |\n| --- | ---: | ---: |", flush=True)
    for count in counts(given.tries, given.seed):
        print(f"| {count.kind} | {count.tried:,} | {count.survived:,} |", flush=True)
