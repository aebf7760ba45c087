"""Which structure an index is searched by, and why: a sentence that a command can print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from embedding_expansion.checks import check_name

Kind: TypeAlias = Literal["flat", "hnsw", "ivfpq"]
KINDS = ("auto", "flat", "hnsw", "ivfpq")

# Numbers in all vectors together, n x d. Up to the first a query reads all of them in some 20 ms; beyond the second an
# HNSW graph, which holds the vectors, asks for more than 8 GiB of memory.
FLAT_NUMBERS = 2**25
HNSW_NUMBERS = 2**31
# Product quantisation learns 256 codes per part of the vector, from 39 vectors a code.
IVFPQ_ROWS = 39 * 256


@dataclass(frozen=True)
class Choice:
    """A kind and the sentence that says why."""

    kind: Kind
    reason: str


def check_kind(kind: str) -> None:
    """Refuses a kind that there is not."""
    check_name("kind of index", kind, KINDS)


def choose(asked: str, n: int, d: int, flat_numbers: int = FLAT_NUMBERS) -> Choice:
    """Chooses the structure for n vectors of d dimensions.

    Args:
        asked: one of `KINDS`.
        n: how many vectors there are.
        d: their dimensions.
        flat_numbers: up to how many numbers "auto" searches exactly.

    Example:
        >>> choose("auto", 10_000, 128).reason
        'flat: 10,000 x 128 numbers are searched exactly in a moment'
    """
    size = f"{n:,} x {d:,} numbers"
    if asked == "ivfpq" and n < IVFPQ_ROWS:
        return Choice("flat", f"flat: ivfpq learns its codes from at least {IVFPQ_ROWS:,} vectors, there are {n:,}")
    if asked != "auto":
        kind: Kind = asked  # type: ignore[assignment]
        return Choice(kind, f"{asked}: as asked for")
    if n * d <= flat_numbers:
        return Choice("flat", f"flat: {size} are searched exactly in a moment")
    if n * d <= HNSW_NUMBERS:
        return Choice("hnsw", f"hnsw: reading all of {size} for each query is slow, and the graph fits in memory")
    return Choice("ivfpq", f"ivfpq: a graph over {size} takes more than {HNSW_NUMBERS * 4 // 2**30} GiB of memory")
