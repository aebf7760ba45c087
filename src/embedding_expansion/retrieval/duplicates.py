"""Near-duplicates: all pairs of rows whose cosine reaches a threshold, exactly, and the groups that they connect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.checks import as_number, as_whole, validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import as_array, as_cosine, as_cosines, least_reaching, unit_vectors

#: Copies of an image that were saved again or made smaller are mostly above it, different photographs mostly below.
THRESHOLD = 0.98
#: How many pairs are kept by default.
MOST_PAIRS = 100_000
#: The side of the squares in which rows are compared, and how many numbers are read at a time to compare pairs.
SIDE, NUMBERS = 1024, 2**22


@dataclass(frozen=True)
class Duplicates:
    """What `near_duplicates` found.

    Attributes:
        groups: the rows of each group in ascending order; the largest group first, groups of equal size by their first
            row. Every row is a near-duplicate of at least one other row of its group, not necessarily of all.
        pairs: (p, 2), the rows of each near-duplicate pair, the smaller row first; the most similar pair first, equally
            similar pairs by their rows.
        similarities: (p,), the cosine of each pair.
        number_of_pairs: how many pairs were found; more than p if only the most similar pairs were kept.
        closest: (n,), the row that each row is most similar to, the smaller of equally similar rows; -1 if it has no
            near-duplicate.
        similarity: (n,), the cosine to `closest`; NaN if there is none.
    """

    groups: list[Int[np.ndarray, " _"]]
    pairs: Int[np.ndarray, "p 2"]
    similarities: Float[np.ndarray, " p"]
    number_of_pairs: int
    closest: Int[np.ndarray, " n"]
    similarity: Float[np.ndarray, " n"]


@validates
def near_duplicates(vectors: np.ndarray, threshold: float = THRESHOLD, *, most_pairs: int = MOST_PAIRS) -> Duplicates:
    """Finds every pair of rows whose cosine is at least a threshold, and the groups that such pairs connect.

    All pairs of rows are compared: time grows with n^2 d, memory with n d and the number of groups. A matrix product
    selects the pairs near the threshold. These are compared again in float64, each in the same order of summation, so
    the result does not depend on how the product was divided.

    Args:
        vectors: (n, d), floating-point, of any norm; n may be 0.
        threshold: the smallest cosine of near-duplicates, above 0 and up to 1. A cosine of 0.999999 or more counts as
            1, so a threshold of 1 finds all rows that are equal up to rounding and scale.
        most_pairs: how many pairs to keep, the most similar ones. Groups and counts include all pairs.

    Raises:
        InvalidInput: not a matrix; a row that is NaN, infinite or zero; or a number out of its range.
        InvalidType: vectors or numbers of the wrong type.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.999, 0.01], [0.01, 0.999]])
        >>> found = near_duplicates(rows, 0.99)
        >>> [group.tolist() for group in found.groups], found.pairs.tolist()
        ([[0, 2], [1, 3]], [[0, 2], [1, 3]])
    """
    least, most = check_threshold(threshold), as_whole(most_pairs, "most_pairs", least=1)
    rows = as_array(vectors, "vectors")
    if rows.ndim != 2:
        raise InvalidInput(f"vectors has the shape {rows.shape}; pass a matrix with one row per image")
    units = unit_vectors(rows, rows.shape[1])
    n = len(units)
    kept, held, total = [_no_pairs()], 0, 0
    closest, similarity, parent = np.full(n, -1), np.full(n, -np.inf), np.arange(n)
    for pairs, similarities in _pairs(units, as_cosine(least)):
        total += len(pairs)
        _join(parent, pairs)
        for own, other in ((0, 1), (1, 0)):
            _bring_closer(closest, similarity, pairs[:, own], pairs[:, other], similarities)
        kept.append((pairs, similarities))
        held += len(pairs)
        if held > 2 * most:  # not for every square, since sorting takes longer than comparing
            kept, held = [_most_similar(kept, most)], most
    similarity[closest < 0] = np.nan
    return Duplicates(_groups(parent), *_most_similar(kept, most), total, closest, similarity)


@validates
def check_threshold(threshold: object) -> float:
    """Checks a cosine threshold above 0 and up to 1."""
    least = as_number(threshold, "threshold", what="cosine")
    if not 0 < least <= 1:
        raise InvalidInput(f"threshold is {least}; pass a cosine above 0 and up to 1, such as {THRESHOLD}")
    return least


def _no_pairs() -> tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]:
    return np.empty((0, 2), np.int64), np.empty(0)


def _pairs(
    units: Float[np.ndarray, "n d"], least: float
) -> Iterator[tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]]:
    """Yields the near-duplicates of one square of the table of similarities after another, above its diagonal."""
    n, bar = len(units), least_reaching(least) - 1e-6 * units.shape[1] ** 0.5
    for top in range(0, n, SIDE):
        for left in range(top, n, SIDE):
            table = units[top : top + SIDE] @ units[left : left + SIDE].T
            near = table >= bar
            if left == top:
                near = np.triu(near, 1)
            pairs = np.argwhere(near) + np.array([top, left])
            if len(pairs):
                similarities = as_cosines(_compared(units, pairs))
                there = similarities >= least
                yield pairs[there], similarities[there]


def _compared(units: Float[np.ndarray, "n d"], pairs: Int[np.ndarray, "p 2"]) -> Float[np.ndarray, " p"]:
    """The cosine of each pair in float64."""
    size = max(1, NUMBERS // units.shape[1])
    pieces = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return np.concatenate(
        [(units[own].astype(np.float64) * units[other]).sum(axis=1) for own, other in (p.T for p in pieces)]
    )


def _bring_closer(
    closest: Int[np.ndarray, " n"],
    similarity: Float[np.ndarray, " n"],
    rows: Int[np.ndarray, " p"],
    others: Int[np.ndarray, " p"],
    similarities: Float[np.ndarray, " p"],
) -> None:
    """Updates, for each row, its closest row and their similarity, if a new pair is more similar."""
    order = np.lexsort((others, -similarities, rows))
    best = order[np.unique(rows[order], return_index=True)[1]]
    row, other, value = rows[best], others[best], similarities[best]
    closer = (value > similarity[row]) | ((value == similarity[row]) & (other < closest[row]))
    closest[row[closer]], similarity[row[closer]] = other[closer], value[closer]


def _most_similar(
    parts: list[tuple[Int[np.ndarray, "_ 2"], Float[np.ndarray, " _"]]], most: int
) -> tuple[Int[np.ndarray, "kept 2"], Float[np.ndarray, " kept"]]:
    pairs, similarities = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarities))[:most]
    return pairs[order], similarities[order]


def _join(parent: Int[np.ndarray, " n"], pairs: Int[np.ndarray, "p 2"]) -> None:
    """Unites the groups of all pairs: first within the square, so that few unions remain."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    edges = coo_array((np.ones(len(pairs), bool), (ends[:, 0], ends[:, 1])), shape=(len(rows), len(rows)))
    component = connected_components(edges, directed=False)[1]
    first = rows[np.unique(component, return_index=True)[1]][component]
    for row, other in zip(rows.tolist(), first.tolist(), strict=True):
        one, two = _root(parent, row), _root(parent, other)
        parent[max(one, two)] = min(one, two)


def _root(parent: Int[np.ndarray, " n"], row: int) -> int:
    """The smallest row of a group (union-find with path halving)."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row


def _groups(parent: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " _"]]:
    roots = np.array([_root(parent, row) for row in range(len(parent))], np.int64)
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), int(group[0])))
