"""Near-duplicates: all pairs of rows that are as alike as a threshold, exactly, and the groups that they connect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.core.validation import validates
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.arrays import as_array, as_cosine, as_cosines, least_reaching, positive, unit_vectors

#: Copies of one image that were saved anew or made smaller mostly lie above it, different photographs mostly below.
THRESHOLD = 0.98
#: So many pairs are kept, unless more are asked for.
MOST_PAIRS = 100_000
#: Rows are compared in squares of this side, and pairs in pieces of so many numbers.
SIDE, NUMBERS = 1024, 2**22


@dataclass(frozen=True)
class Duplicates:
    """What `near_duplicates` found.

    Attributes:
        groups: the rows of each group in ascending order; the largest group first, equally large ones by their first
            row. Every row of a group is a near-duplicate of another one of it, not of all.
        pairs: (p, 2), the near-duplicates, the smaller row first; the most similar pair first, equal ones by their
            rows.
        similarities: (p,), their cosines.
        number_of_pairs: how many there are; more than p where only the most similar were kept. The groups are those of
            all.
        closest: (n,), the row that each is most similar to, the smaller one of equals; -1 where there is no duplicate.
        similarity: (n,), the cosine to it; NaN where there is none.
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

    Each two rows are compared: the work grows with n^2 d, the memory with n d and the number of groups. A matrix
    product finds the pairs that come near the threshold; they are compared again in float64, each in the same order of
    summation, so that nothing hangs on how the product was cut.

    Args:
        vectors: (n, d), floating-point, of any norm; n may be 0.
        threshold: the smallest cosine of near-duplicates, above 0 and up to 1. A cosine from 0.999999 on counts as 1,
            so that 1 finds all rows that are equal up to rounding, of whatever norm.
        most_pairs: so many pairs are kept, the most similar ones; groups and counts are of all.

    Raises:
        InvalidInput: no matrix, NaN, infinite or zero rows, or a number out of its range.
        InvalidType: vectors or numbers of another kind.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.999, 0.01], [0.01, 0.999]])
        >>> found = near_duplicates(rows, 0.99)
        >>> [group.tolist() for group in found.groups], found.pairs.tolist()
        ([[0, 2], [1, 3]], [[0, 2], [1, 3]])
    """
    least, most = check_threshold(threshold), positive(most_pairs, "most_pairs")
    rows = as_array(vectors, "vectors")
    if rows.ndim != 2:
        raise InvalidInput(f"vectors has the shape {rows.shape}; pass a matrix, one row for each image")
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
        if held > 2 * most:  # and not for every square: sorting takes longer than comparing
            kept, held = [_most_similar(kept, most)], most
    similarity[closest < 0] = np.nan
    return Duplicates(_groups(parent), *_most_similar(kept, most), total, closest, similarity)


@validates
def check_threshold(threshold: object) -> float:
    """The threshold, if it is one."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.floating)):
        raise InvalidType(f"threshold is {threshold!r}; pass a cosine such as {THRESHOLD}")
    if not 0 < threshold <= 1:
        raise InvalidInput(f"threshold is {threshold}; pass a cosine above 0 and up to 1, such as {THRESHOLD}")
    return float(threshold)


def _no_pairs() -> tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]:
    return np.empty((0, 2), np.int64), np.empty(0)


def _pairs(
    units: Float[np.ndarray, "n d"], least: float
) -> Iterator[tuple[Int[np.ndarray, "p 2"], Float[np.ndarray, " p"]]]:
    """The near-duplicates of one square of the table of similarities after another, above its diagonal."""
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
    """Enters for each row the most similar of the others, where it is closer than the one that is known."""
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
    """Unites the groups of all pairs: within the square first, so that few are left to be walked through."""
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
    """The smallest row of a group; the way to it is halved as it is gone."""
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
