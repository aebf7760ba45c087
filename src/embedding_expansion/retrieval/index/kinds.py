"""Which structure an index is searched by, and why: a sentence that a command can print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from embedding_expansion.errors import UnknownName
from embedding_expansion.retrieval.arrays import Neighbours

Kind: TypeAlias = Literal["flat", "hnsw", "ivfpq"]
KINDS = ("auto", "flat", "hnsw", "ivfpq")

# Numbers in all vectors together, n x d. Up to the first a query reads all of them in some 20 ms; beyond the second an
# HNSW graph, which holds the vectors, asks for more than 8 GiB of memory.
FLAT_NUMBERS = 2**25
HNSW_NUMBERS = 2**31
# Product quantisation learns 256 codes per part of the vector, from 39 vectors a code.
IVFPQ_ROWS = 39 * 256
# Stored vectors that are searched for, and the neighbours that are compared.
QUERIES = 100
NEIGHBOURS = 10


@dataclass(frozen=True)
class Choice:
    """A kind and the sentence that says why."""

    kind: Kind
    reason: str


def check_kind(kind: str) -> None:
    """Refuses a kind that there is not."""
    if kind not in KINDS:
        raise UnknownName("kind of index", kind, KINDS)


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


@dataclass(frozen=True)
class Recall:
    """The share of the true nearest neighbours that the structure finds.

    Attributes:
        value: 0 to 1, mean over the queries.
        k: neighbours that were compared, the query itself left out.
        queries: how many stored vectors were searched for.
    """

    value: float
    k: int
    queries: int


def sample(ids: Sequence[int], seed: int = 0) -> list[int]:
    """Which stored vectors to search for: drawn at random, the same ones for the same ids."""
    rng = np.random.default_rng(seed)
    return sorted(int(i) for i in rng.choice(np.asarray(ids), min(QUERIES, len(ids)), replace=False))


def measure(
    ids: Sequence[int],
    vectors: Float[np.ndarray, "q d"],
    approximate: Callable[[Float[np.ndarray, "q d"], int], list[Neighbours]],
    exact: Callable[[Float[np.ndarray, "q d"], int], list[Neighbours]],
) -> Recall:
    """Compares two ways to search for stored vectors; each vector's own item counts for neither."""
    hits = total = 0
    pairs = zip(ids, approximate(vectors, NEIGHBOURS + 1), exact(vectors, NEIGHBOURS + 1), strict=True)
    for own, found, true in pairs:
        wanted = [id for _, id in true if id != own][:NEIGHBOURS]
        hits += len(set(wanted) & set([id for _, id in found if id != own][:NEIGHBOURS]))
        total += len(wanted)
    return Recall(hits / total if total else 1.0, NEIGHBOURS, len(ids))
