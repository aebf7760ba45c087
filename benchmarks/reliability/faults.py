"""What all counts of faults have in common."""

from __future__ import annotations

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
