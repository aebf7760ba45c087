"""Vectors on the way into an index, and exact search among those that are at hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.arrays import as_array

Found: TypeAlias = list[tuple[float, int]]  # similarity and id, the closest first

# The table of similarities takes at most so many entries.
TABLE_ENTRIES = 2**25


@validates
def unit_vectors(vectors: Any, dimensions: int, name: str = "vectors") -> Float[np.ndarray, "n d"]:
    """Checks a matrix of vectors and divides each by its Euclidean norm.

    Args:
        vectors: (n, dimensions), a NumPy array or what becomes one; n may be 0.
        dimensions: of the index.
        name: of the argument, for the sentences.

    Returns:
        float32, C-contiguous.

    Raises:
        InvalidInput: another shape, NaN or infinite entries, or a row of zeros, which has no direction.
        InvalidType: no floating-point numbers.
    """
    rows = as_array(vectors, name)
    if rows.dtype not in (np.float16, np.float32, np.float64):
        raise InvalidType(f"{name} has the type {rows.dtype}; pass floating-point numbers of 16, 32 or 64 bits")
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise InvalidInput(
            f"{name} has the shape {rows.shape} but the index holds vectors of {dimensions} dimensions; pass a matrix "
            f"of shape (n, {dimensions}), from the model that the index was made with"
        )
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    for wrong, what in ((~np.isfinite(largest), "NaN or infinite entries"), (largest == 0, "nothing but zeros")):
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise InvalidInput(f"row {place} of {name} has {what}; leave it out or find where it comes from")
    rows /= largest  # squares of very small or very large entries leave the range of the type
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def closest(
    queries: Float[np.ndarray, "q d"], ids: Int[np.ndarray, " n"], rows: Float[np.ndarray, "n d"], k: int
) -> list[Found]:
    """Finds for each query the k rows with the largest inner product, equal ones by the smaller id.

    A matrix product rounds differently at its edges, so that equal rows may come out a last bit apart. It is used to
    find who comes near the k-th place; those are compared in float64, each in the same order of summation.
    """
    if len(rows) == 0:
        return [[] for _ in queries]
    slack = 1e-6 * rows.shape[1] ** 0.5
    found: list[Found] = []
    block = max(1, TABLE_ENTRIES // len(rows))
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        for query, similarities in zip(part, part @ rows.T, strict=True):
            near = _near(similarities, k, slack)
            found.append(ranked(query, ids[near], rows[near], k))
    return found


def ranked(query: Float[np.ndarray, " d"], ids: Int[np.ndarray, " n"], rows: Float[np.ndarray, "n d"], k: int) -> Found:
    """The k closest of a few rows to one query, compared in float64."""
    exact = (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = np.lexsort((ids, -exact))[:k]
    return [(float(exact[place]), int(ids[place])) for place in order]


def merged(parts: Iterable[Found], k: int) -> Found:
    """The k closest of several lists."""
    return sorted((pair for part in parts for pair in part), key=lambda pair: (-pair[0], pair[1]))[:k]


def _near(similarities: Float[np.ndarray, " n"], k: int, slack: float) -> Int[np.ndarray, " near"]:
    if k >= len(similarities):
        return np.arange(len(similarities))
    bar = np.partition(similarities, -k)[-k]
    return np.flatnonzero(similarities >= bar - slack)
