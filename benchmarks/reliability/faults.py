"""What all counts of faults have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Count(NamedTuple):
    """How many faults of a kind were tried, and how many survived."""

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
        """Whether it refused as it should."""
        return self.status == 2 and self.err.count("\n") == 1 and self.err.startswith("embex: ")


def print_table(about: str | None, counts: Callable[[int, int], Iterable[Count]], tries: int) -> None:
    """The command line of one part: `counts(tries, seed)` as a table."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tries", type=int, default=tries, help="faults of an ordinary kind; others in proportion")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    print("| fault | tried | survived |\n| --- | ---: | ---: |", flush=True)
    for count in counts(given.tries, given.seed):
        print(f"| {count.kind} | {count.tried:,} | {count.survived:,} |", flush=True)
