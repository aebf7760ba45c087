"""Candidates of a query, each with its keys, brought into one list per query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

# Pairs of rows are multiplied as many at a time as take so many entries.
PAIR_ENTRIES = 2**23


def pair_similarities(
    left: Float[Tensor, "n d"], right: Float[Tensor, "m d"], i: Int[np.ndarray, " p"], j: Int[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
    """The inner products of single pairs of rows, in float64."""
    size = max(1, PAIR_ENTRIES // left.shape[1])
    found = [np.empty(0)]
    for start in range(0, len(i), size):
        a, b = (torch.from_numpy(part[start : start + size].astype(np.int64)).to(left.device) for part in (i, j))
        found.append((left[a] * right[b]).sum(1, dtype=torch.float64).cpu().numpy())
    return np.concatenate(found)


def without_repeats(
    i: Int[np.ndarray, " p"], j: Int[np.ndarray, " p"], columns: int
) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
    """The different pairs in ascending order."""
    codes = np.unique(i.astype(np.int64) * columns + j)
    return codes // columns, codes % columns


def first_of_each(
    query: Int[np.ndarray, " p"], keys: Sequence[np.ndarray], queries: int, top: int
) -> Int[np.ndarray, "q top"]:
    """The places of the first `top` candidates of each query, in ascending order of the keys, -1 behind the last.

    Args:
        query: of each candidate.
        keys: one value a candidate each; the second decides where the first is equal, and so on.
        queries: how many there are.
        top: how many candidates at most.
    """
    order = np.lexsort([*reversed(keys), query])
    counts = np.bincount(query, minlength=queries)
    rank = np.arange(len(order)) - np.repeat(counts.cumsum() - counts, counts)
    kept = rank < top
    places = np.full((queries, top), -1)
    places[query[order][kept], rank[kept]] = order[kept]
    return places
