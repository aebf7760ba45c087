"""How many of the true neighbours an approximate search finds: measured, never assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from embedding_expansion.retrieval.index.vectors import Found

# Stored vectors that are searched for, and the neighbours that are compared.
QUERIES = 100
NEIGHBOURS = 10


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
    approximate: Callable[[Float[np.ndarray, "q d"], int], list[Found]],
    exact: Callable[[Float[np.ndarray, "q d"], int], list[Found]],
) -> Recall:
    """Compares two ways to search for stored vectors; each vector's own item counts for neither."""
    hits = total = 0
    pairs = zip(ids, approximate(vectors, NEIGHBOURS + 1), exact(vectors, NEIGHBOURS + 1), strict=True)
    for own, found, true in pairs:
        wanted = [id for _, id in true if id != own][:NEIGHBOURS]
        hits += len(set(wanted) & set([id for _, id in found if id != own][:NEIGHBOURS]))
        total += len(wanted)
    return Recall(hits / total if total else 1.0, NEIGHBOURS, len(ids))
