"""k-reciprocal re-ranking: rows are near if they share neighbours that also have them as neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from embedding_expansion.checks import as_limit, as_number, as_whole
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.ranks import largest
from embedding_expansion.retrieval.search import (
    TABLE_BYTES,
    Comparison,
    check_comparable,
    excluded_rows,
    nearest,
    unit_queries_and_gallery,
)

# Rows whose neighbours are expanded at a time, and entries shared by pairs of rows that are kept at a time.
PIECE = 1024
SHARED_ENTRIES = 2**21
# Queries ranked at a time, and tables of queries x gallery that this takes.
MOST_QUERIES = 256
TABLES = 6
# Entries that are read at a time to multiply single pairs of rows.
PAIR_ENTRIES = 2**23

Sparse: TypeAlias = Any  # scipy's csr_array, which has no types


@torch.no_grad()
@validates
def k_reciprocal(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    top: int,
    *,
    k1: int = 20,
    k2: int = 6,
    distance_weight: float = 0.3,
    exclude: Tensor | np.ndarray | Sequence[int] | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Ranks the gallery by the Jaccard distance of k-reciprocal neighbours, mixed with the original distance.

    Queries and gallery are points of one set. Let d(p, x) be 2 - 2 cos(p, x) divided by its largest value over x, and
    N(p, k) the point p and its k nearest other points:

        R(p, k)  = those x of N(p, k) that have p in N(x, k)
        R*(p)    = R(p, k1) and every R(x, k1/2), x in R(p, k1), of which two thirds or more are in R(p, k1)
        V(p, x)  = exp(-d(p, x)) for x in R*(p), otherwise 0, divided by its sum over x
        V'(p)    = the mean of V over p and its k2 - 1 nearest other points
        J(p, x)  = 1 - sum_y min(V'(p, y), V'(x, y)) / sum_y max(V'(p, y), V'(x, y))
        d*(p, x) = (1 - distance_weight) J(p, x) + distance_weight d(p, x)

    All tables are sparse: memory grows with points x neighbours, not with points x points. The list of a query also
    depends on the other queries.

    Args:
        queries: (q, d), a floating-point tensor or NumPy array of any norm.
        gallery: (g, d), on the same device.
        top: the length of the lists.
        k1: the number of neighbours from which the reciprocal ones are taken.
        k2: the number of points over which sets of neighbours are averaged; 1 for no averaging.
        distance_weight: 0 ranks by J alone, 1 by the distance alone; the paper's lambda.
        exclude: (q,), for each query the gallery row that is the query itself, -1 for none. The query does not find
            this row, and the two are one point of the set. Leave-one-out within one set is
            `k_reciprocal(x, x, top, exclude=range(len(x)))`.
        chunk: rows compared at a time, as in `nearest`.

    Returns:
        Distances d* (q, top) in ascending order, float64, and gallery indices (q, top), int64, on the device of the
        queries. Equal d* are ordered by the smaller index; if J is 1, they are ordered by d first. A query with fewer
        candidates gets index -1 and distance inf for the rest.

    Raises:
        InvalidInput: an empty or non-finite matrix, queries and gallery that cannot be compared, a count below 1, a
            weight outside 0..1, or an index in `exclude` that is outside the gallery or occurs twice.
        InvalidType: embeddings that are not a floating-point matrix, or a number of the wrong type.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> k_reciprocal(rows, rows, 1, k1=1, k2=1, exclude=range(4))[1].flatten().tolist()
        [1, 0, 3, 2]

    Source: Z. Zhong, L. Zheng, D. Cao, S. Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR
        2017, equations 2 to 12.
    Differs from the source: the metric is the squared Euclidean distance of L2-normalised rows. As in the authors'
        program, all queries are among the points, d is divided by its largest value, and k1 / 2 is rounded half to
        even. Unlike in the program, and as in the paper, exactly two thirds are enough.
    """
    query_rows, gallery_rows = unit_queries_and_gallery(queries, gallery)
    top, k1, k2 = (as_whole(value, name, least=1) for value, name in ((top, "top"), (k1, "k1"), (k2, "k2")))
    distance_weight, chunk = as_number(distance_weight, "distance_weight", 0, 1), as_limit(chunk, "chunk")
    check_comparable(query_rows, gallery_rows)
    q, g = len(query_rows), len(gallery_rows)
    own = excluded_rows(exclude, q, g)
    points, index = _points(query_rows, gallery_rows, own.numpy())
    farthest, device = _farthest(points, chunk), query_rows.device
    encoded = _encode(points, farthest, k1, k2, chunk)
    rows = max(1, min(MOST_QUERIES, TABLE_BYTES // (TABLES * 8 * g)))
    columns = encoded[:g].tocsc()
    compare = Comparison(points[:g], points.dtype, min(rows, q))
    distances = torch.full((q, top), torch.inf, dtype=torch.float64, device=device)
    indices = torch.full((q, top), -1, device=device)
    for block in _blocks(encoded, index, rows):
        cosine = compare(points[torch.from_numpy(index[block]).to(device)], own[block].to(device))[:, :g]
        distance = _scaled(cosine.double().cpu().numpy(), farthest[index[block], None])
        similarity = _jaccard_similarity(encoded[index[block]], columns)
        mixed = torch.from_numpy(_mixed(similarity, distance, distance_weight, own[block].numpy())).to(device)
        found, order = largest(-mixed, min(top, g))
        distances[block, : found.shape[1]] = -found
        indices[block, : found.shape[1]] = order.masked_fill(found == -torch.inf, -1)
    if distance_weight == 0:
        distances[indices >= 0] = distances[indices >= 0].clamp(max=1)
    return distances, indices


def _mixed(
    similarity: Float[np.ndarray, "b g"], distance: Float[np.ndarray, "b g"], weight: float, own: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "b g"]:
    """d*, infinite for a query's own row; with weight 0 it exceeds 1 if nothing is shared, so that d decides there."""
    queries = np.flatnonzero(own >= 0)
    distance[queries, own[queries]] = 0  # it is infinite
    mixed: np.ndarray = (1 - weight) * (1 - similarity) + weight * distance
    if weight == 0:
        mixed += np.where(similarity == 0, distance, 0)
    mixed[queries, own[queries]] = np.inf
    return mixed


def _points(
    queries: Float[Tensor, "q d"], gallery: Float[Tensor, "g d"], own: Int[np.ndarray, " q"]
) -> tuple[Float[Tensor, "n d"], Int[np.ndarray, " q"]]:
    """The points (the gallery, then the queries that have no row in it), and the index of each query among them."""
    known, lone = np.flatnonzero(own >= 0), np.flatnonzero(own < 0)
    if len(np.unique(own[known])) < len(known):
        raise InvalidInput("exclude has the same gallery row for several queries; pass each row for one query only")
    index = own.copy()
    index[lone] = len(gallery) + np.arange(len(lone))
    points = torch.cat([gallery, queries[torch.from_numpy(lone).to(queries.device)]])
    points[torch.from_numpy(own[known]).to(queries.device)] = queries[torch.from_numpy(known).to(queries.device)]
    return points, index


def _farthest(points: Float[Tensor, "n d"], chunk: int | None) -> Float[np.ndarray, " n"]:
    """The largest 2 - 2 cos of each point to any other point."""
    found = 2 + 2 * nearest(-points, points, 1, chunk=chunk)[0][:, 0].double().cpu().numpy()
    farthest: np.ndarray = np.where(found > 0, found, 1.0)
    return farthest


def _scaled(cosine: np.ndarray, farthest: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.clip(2 - 2 * cosine, 0, None) / farthest
    return distance


def _encode(
    points: Float[Tensor, "n d"], farthest: Float[np.ndarray, " n"], k1: int, k2: int, chunk: int | None
) -> Sparse:
    """The sparse rows V' of all points."""
    n = len(points)
    lists = _with_self(points, max(k1, k2 - 1), chunk)
    wide, narrow = (_reciprocal(lists[:, : k + 1]) for k in (k1, round(k1 / 2)))
    encoded = []
    for start in range(0, n, PIECE):
        i, j = _expanded(wide[start : start + PIECE], narrow).nonzero()
        weights = np.exp(-_scaled(_pair_similarities(points, points, start + i, j), farthest[start + i]))
        weights /= np.bincount(i, weights)[i]
        encoded.append(sparse.csr_array((weights, (i, j)), shape=(min(PIECE, n - start), n)))
    mean = _membership(lists[:, :k2])
    return ((mean @ sparse.vstack(encoded)) / np.minimum(k2, lists.shape[1])).tocsr()


def _with_self(points: Float[Tensor, "n d"], k: int, chunk: int | None) -> Int[np.ndarray, "n k1"]:
    """Each point and its k nearest other points, or all of them if there are fewer."""
    n, itself = len(points), np.arange(len(points))[:, None]
    if n == 1:
        return itself
    others = nearest(points, points, min(k, n - 1), exclude=range(n), chunk=chunk)[1]
    return np.concatenate([itself, others.cpu().numpy()], axis=1)


def _membership(lists: Int[np.ndarray, "n k"]) -> Sparse:
    """A sparse matrix that is 1 where a point (column) is in the list of another (row)."""
    n, k = lists.shape
    return sparse.csr_array((np.ones(n * k), lists.flatten(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _reciprocal(lists: Int[np.ndarray, "n k"]) -> Sparse:
    """A sparse matrix that is 1 where each of two points is in the list of the other."""
    member = _membership(lists)
    return member.multiply(member.T).tocsr()


def _expanded(wide: Sparse, narrow: Sparse) -> Sparse:
    """R* of some points, from R(p, k1) of these points and R(x, k1/2) of all points."""
    shared = (wide @ narrow).multiply(wide).tocoo()  # `narrow` is symmetric
    sizes = narrow.sum(axis=1)
    accepted = 3 * shared.data >= 2 * sizes[shared.coords[1]]
    i, x = (part[accepted] for part in shared.coords)
    chosen = sparse.csr_array((np.ones(len(i)), (i, x)), shape=wide.shape)
    return wide + chosen @ narrow


def _pair_similarities(
    left: Float[Tensor, "n d"], right: Float[Tensor, "m d"], i: Int[np.ndarray, " p"], j: Int[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
    """The inner products of single pairs of rows, in float64."""
    size = max(1, PAIR_ENTRIES // left.shape[1])
    found = [np.empty(0)]
    for start in range(0, len(i), size):
        a, b = (torch.from_numpy(part[start : start + size].astype(np.int64)).to(left.device) for part in (i, j))
        found.append((left[a] * right[b]).sum(1, dtype=torch.float64).cpu().numpy())
    return np.concatenate(found)


def _blocks(encoded: Sparse, index: Int[np.ndarray, " q"], rows: int) -> Iterator[slice]:
    """Blocks of at most `rows` queries that share a bounded number of entries with the points."""
    popular = np.bincount(encoded.indices, minlength=encoded.shape[1])
    work = np.add.reduceat(popular[encoded.indices], encoded.indptr[:-1])[index]  # no row is empty
    start, total = 0, 0
    for number, amount in enumerate(work):
        if number - start == rows or (number > start and total + amount > SHARED_ENTRIES):
            yield slice(start, number)
            start, total = number, 0
        total += amount
    yield slice(start, len(index))


def _jaccard_similarity(queries: Sparse, columns: Sparse) -> Float[np.ndarray, "b g"]:
    """For each query and gallery row the sum of minima divided by the sum of maxima; `columns` is stored by column."""
    entries = queries.tocoo()
    counts = np.diff(columns.indptr)[entries.coords[1]]
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    positions = np.repeat(columns.indptr[entries.coords[1]], counts) + within
    smaller = np.minimum(np.repeat(entries.data, counts), columns.data[positions])
    b, g = queries.shape[0], columns.shape[0]
    pairs = np.repeat(entries.coords[0].astype(np.int64) * g, counts) + columns.indices[positions]
    minima = np.bincount(pairs, smaller, minlength=b * g).reshape(b, g)
    # Each row sums to 1, so the minima and maxima of two rows sum to 2.
    similarity: np.ndarray = minima / (2 - minima)
    return similarity
