"""How an index is searched: which structure it uses, why, and how many of the true neighbours that finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from embedding_expansion.retrieval.arrays import Neighbours

Kind: TypeAlias = Literal["flat", "hnsw", "ivfpq"]
AskedKind: TypeAlias = Literal["auto"] | Kind
KINDS: tuple[AskedKind, ...] = ("auto", "flat", "hnsw", "ivfpq")

# Numbers in all vectors together, n x d. Up to the first, a query reads all of them in about 20 ms; beyond the second,
# an HNSW graph, which holds the vectors, needs more than 8 GiB of memory.
FLAT_NUMBERS = 2**25
HNSW_NUMBERS = 2**31
# Product quantisation learns 256 codes per part of the vector, from at least 39 vectors per code.
IVFPQ_ROWS = 39 * 256
# To measure the recall: how many stored vectors are searched for, and how many neighbours are compared.
QUERIES = 100
NEIGHBOURS = 10


@dataclass(frozen=True)
class Choice:
    """A kind, and the reason for it as a sentence that a command can print."""

    kind: Kind
    reason: str


def choose(asked: str, n: int, d: int, flat_numbers: int = FLAT_NUMBERS) -> Choice:
    """Chooses the structure for n vectors of d dimensions.

    Args:
        asked: one of `KINDS`.
        n: the number of vectors.
        d: their dimensions.
        flat_numbers: up to this number of numbers, n x d, "auto" searches exactly.

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
    """The share of the true nearest neighbours that an approximate search finds.

    Attributes:
        value: 0 to 1, the mean over the queries.
        k: the number of neighbours that were compared, without the query itself.
        queries: the number of stored vectors that were searched for.
    """

    value: float
    k: int
    queries: int


def sample(ids: Sequence[int], seed: int = 0) -> list[int]:
    """Draws the ids of the stored vectors to search for, in ascending order; equal ids give equal samples."""
    rng = np.random.default_rng(seed)
    return sorted(int(i) for i in rng.choice(np.asarray(ids), min(QUERIES, len(ids)), replace=False))


def measure(
    ids: Sequence[int],
    vectors: Float[np.ndarray, "q d"],
    approximate: Callable[[Float[np.ndarray, "q d"], int], list[Neighbours]],
    exact: Callable[[Float[np.ndarray, "q d"], int], list[Neighbours]],
) -> Recall:
    """Measures the recall of an approximate search for stored vectors against an exact search.

    Args:
        ids: (q,), the ids of the stored vectors. The item of a vector does not count as its neighbour.
        vectors: (q, d), the stored vectors.
        approximate: a search for k neighbours of each vector.
        exact: the exact search.
    """
    hits = total = 0
    pairs = zip(ids, approximate(vectors, NEIGHBOURS + 1), exact(vectors, NEIGHBOURS + 1), strict=True)
    for own, found, true in pairs:
        wanted = [id for _, id in true if id != own][:NEIGHBOURS]
        hits += len(set(wanted) & set([id for _, id in found if id != own][:NEIGHBOURS]))
        total += len(wanted)
    return Recall(hits / total if total else 1.0, NEIGHBOURS, len(ids))
