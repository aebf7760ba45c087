"""Searches in a folder: candidates from the faiss structure, and all rows that it does not cover."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.retrieval.arrays import Neighbours, closest, merged, ranked
from embedding_expansion.retrieval.index.folder.snapshot import Snapshot, StoredVectors

# If a condition leaves fewer rows than this number or this share, all of them are compared: searching a graph in which
# most points are excluded is slow and inaccurate.
FEW_ROWS = 10_000
FEW_SHARE = 0.1


def search(
    snapshot: Snapshot,
    vectors: StoredVectors,
    queries: Float[np.ndarray, "q d"],
    k: int,
    allowed: Int[np.ndarray, " n"] | None,
) -> list[Neighbours]:
    """Finds the k most similar rows of each query, among the allowed ids unless `allowed` is None."""
    fresh = _fresh(snapshot, queries, k, allowed)
    if snapshot.structure is None:
        return fresh
    covered = len(snapshot.structure.ids) - len(snapshot.gone)
    inside = None
    if allowed is not None:
        inside = np.setdiff1d(np.intersect1d(allowed, snapshot.structure.ids, assume_unique=True), snapshot.gone)
        covered = len(inside)
        if covered < max(FEW_ROWS, FEW_SHARE * len(snapshot.structure.ids)):
            return [merged(pair, k) for pair in zip(fresh, scan(vectors, queries, k, inside), strict=True)]
    candidates = snapshot.structure.candidates(queries, k, among=inside, without=snapshot.gone)
    found = _compared(vectors, queries, k, candidates)
    short = [query for query, one in enumerate(found) if len(one) < min(k, covered)]
    if short:
        everything = np.setdiff1d(snapshot.structure.ids, snapshot.gone) if inside is None else inside
        for query, complete in zip(short, scan(vectors, queries[short], k, everything), strict=True):
            found[query] = complete
    return [merged(pair, k) for pair in zip(fresh, found, strict=True)]


def scan(
    vectors: StoredVectors, queries: Float[np.ndarray, "q d"], k: int, ids: Int[np.ndarray, " n"]
) -> list[Neighbours]:
    """Compares every query with every given row, a block of rows at a time."""
    found: list[Neighbours] = [[] for _ in queries]
    for block, rows in vectors.blocks(ids):
        found = [merged(pair, k) for pair in zip(found, closest(queries, block, rows, k), strict=True)]
    return found


def _fresh(
    snapshot: Snapshot, queries: Float[np.ndarray, "q d"], k: int, allowed: Int[np.ndarray, " n"] | None
) -> list[Neighbours]:
    if allowed is None:
        return closest(queries, snapshot.ids, snapshot.rows, k)
    chosen = np.isin(snapshot.ids, allowed)
    return closest(queries, snapshot.ids[chosen], snapshot.rows[chosen], k)


def _compared(
    vectors: StoredVectors, queries: Float[np.ndarray, "q d"], k: int, candidates: list[Int[np.ndarray, " found"]]
) -> list[Neighbours]:
    ids, rows = vectors.of(np.unique(np.concatenate(candidates)) if candidates else np.empty(0, np.int64))
    positions = [np.searchsorted(ids, one) for one in candidates]
    return [ranked(query, ids[chosen], rows[chosen], k) for query, chosen in zip(queries, positions, strict=True)]
