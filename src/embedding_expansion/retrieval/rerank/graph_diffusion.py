"""Diffusion: ranks the gallery by random walks from the query on the graph of its mutual neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_limit, as_number, as_whole
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval import native
from embedding_expansion.retrieval.ranks import largest
from embedding_expansion.retrieval.search import (
    TABLE_BYTES,
    Comparison,
    check_comparable,
    excluded_rows,
    nearest,
    unit_queries_and_gallery,
)

# Tables of gallery x queries that the solver keeps at a time, and the most queries in one, so that it fits the cache.
TABLES = 6
QUERIES = 64

Sparse: TypeAlias = Any  # scipy's csr_array, which has no types


@torch.no_grad()
@validates
def diffusion(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    top: int,
    *,
    k: int = 50,
    query_k: int = 10,
    gamma: float = 3.0,
    alpha: float = 0.99,
    tolerance: float = 1e-6,
    max_iterations: int = 20,
    exclude: Tensor | np.ndarray | Sequence[int] | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Ranks the gallery by random walks with restart from the query.

    With s(x, z) = max(cos(x, z), 0)^gamma:

        A(x, z) = s(x, z) if each is among the k nearest other gallery rows of the other, otherwise 0
        S       = D^(-1/2) A D^(-1/2), D the diagonal of A's row sums
        y(x)    = s(query, x) for the query_k gallery rows nearest to the query, otherwise 0
        f       = (1 - alpha) (I - alpha S)^(-1) y

    f is computed by conjugate gradient in float64, for a block of queries at a time. The graph is sparse, and the size
    of the block bounds the memory. The list of a query depends only on the gallery, not on the other queries.

    Args:
        queries: (q, d), a floating-point tensor or NumPy array of any norm.
        gallery: (g, d), on the same device.
        top: the length of the lists.
        k: neighbours of a gallery row in the graph.
        query_k: gallery rows that a query starts from.
        gamma: exponent of the cosine, 0 or more.
        alpha: the probability to continue the walk at each step, from 0 to below 1; with 0 only the neighbours of the
            query count.
        tolerance: a query is solved when the norm of the residual is at most this share of the norm of y.
        max_iterations: of conjugate gradient. The paper stops at 20; the exact solution takes up to 100.
        exclude: (q,), for each query the gallery row that it must not find, -1 for none. The row stays in the graph.
        chunk: rows compared at a time, as in `nearest`.

    Returns:
        Values f (q, top) in descending order, float64, and gallery indices (q, top), int64, on the device of the
        queries. Equal f are ordered by the smaller index. Rows that no path reaches have f = 0 and come last, ordered
        by their cosine with the query. A query with fewer candidates gets index -1 and value -inf for the rest.

    Raises:
        InvalidInput: an empty or non-finite matrix, queries and gallery that cannot be compared, a count below 1, a
            number out of its range, or an index in `exclude` outside the gallery.
        InvalidType: embeddings that are not a floating-point matrix, or a number of the wrong type.

    Example:
        >>> line = torch.tensor([0.0, 0.5, 1.0, 1.5, -0.8, 2.6])  # angles: a chain of four, and one at either end
        >>> rows = torch.stack([line.cos(), line.sin()], dim=1)
        >>> diffusion(rows[:1], rows, 3, k=2, query_k=1, exclude=[0])[1].tolist()
        [[1, 2, 3]]

    Source: A. Iscen, G. Tolias, Y. Avrithis, T. Furon, O. Chum, "Efficient Diffusion on Region Manifolds: Recovering
        Small Objects with Compact CNN Representations", CVPR 2017, sections 3 and 4; M. Donoser and H. Bischof,
        "Diffusion Processes for Retrieval Revisited", CVPR 2013 (the walks compared).
    Differs from the source: there is one vector per image and no regions; the graph is not truncated to the rows
        nearest to a query; rows that the walk does not reach are ordered by cosine.
    """
    query_rows, gallery_rows = unit_queries_and_gallery(queries, gallery)
    top, k, query_k = (as_whole(v, name, least=1) for v, name in ((top, "top"), (k, "k"), (query_k, "query_k")))
    gamma, alpha = as_number(gamma, "gamma", 0), as_number(alpha, "alpha", 0, 1)
    if alpha == 1:
        raise InvalidInput("alpha is 1, so the walk would never end; pass a number below 1, such as 0.99")
    tolerance = as_number(tolerance, "tolerance", 0)
    max_iterations, chunk = as_whole(max_iterations, "max_iterations", least=1), as_limit(chunk, "chunk")
    check_comparable(query_rows, gallery_rows)
    q, g = len(query_rows), len(gallery_rows)
    own, device = excluded_rows(exclude, q, g).to(query_rows.device), query_rows.device
    graph = _graph(gallery_rows, k, gamma, chunk)
    values = torch.full((q, top), -torch.inf, dtype=torch.float64, device=device)
    indices = torch.full((q, top), -1, device=device)
    size = max(1, min(QUERIES, TABLE_BYTES // (TABLES * 8 * g)))
    compare = Comparison(gallery_rows, gallery_rows.dtype, min(size, q))
    for start in range(0, q, size):
        block = slice(start, start + size)
        cosine = compare(query_rows[block], own[block])[:, :g].double().cpu()
        sources = _sources(cosine, min(query_k, g), gamma)
        reached = _solve(graph, sources, alpha, tolerance, max_iterations).mul_(1 - alpha).clamp_(min=0)
        # Rows that the walk does not reach come after the others, with values below 0 in the order of their cosine.
        order = torch.where(reached > 0, reached, cosine - 2).masked_fill_(cosine == -torch.inf, -torch.inf)
        found, columns = largest(order, min(top, g))
        missing = found == -torch.inf
        values[block, : found.shape[1]] = found.clamp(min=0).masked_fill_(missing, -torch.inf).to(device)
        indices[block, : found.shape[1]] = columns.masked_fill(missing, -1).to(device)
    return values, indices


def _sources(cosine: Float[Tensor, "b g"], k: int, gamma: float) -> Float[Tensor, "b g"]:
    """The row y of each query."""
    nearest_cosines, columns = largest(cosine, k)
    weights = nearest_cosines.clamp(0, 1).pow(gamma).masked_fill_(nearest_cosines == -torch.inf, 0)
    return torch.zeros_like(cosine).scatter_(1, columns, weights)


def _graph(gallery: Float[Tensor, "g d"], k: int, gamma: float, chunk: int | None) -> Sparse:
    """The normalised graph S of the gallery."""
    g = len(gallery)
    if g == 1:
        return sparse.csr_array((1, 1))
    similarities, indices = nearest(gallery, gallery, min(k, g - 1), exclude=range(g), chunk=chunk)
    weights = similarities.double().clamp(0, 1).pow(gamma).flatten().cpu().numpy()
    starts = np.arange(0, len(weights) + 1, indices.shape[1])
    directed = sparse.csr_array((weights, indices.flatten().cpu().numpy(), starts), shape=(g, g))
    mutual = directed.minimum(directed.T.tocsr())
    degree = mutual.sum(axis=1)
    scale = np.divide(1, np.sqrt(degree), out=np.zeros(g), where=degree > 0)
    return (mutual * scale[:, None] * scale[None]).tocsr()


def _solve(
    graph: Sparse, sources: Float[Tensor, "q g"], alpha: float, tolerance: float, max_iterations: int
) -> Float[Tensor, "q g"]:
    """Solves (I - alpha S) x = y for several y at once, each with its own step lengths."""
    if not native.available(sources.device):
        solved = _solve_side_by_side(graph, sources.T.contiguous().numpy(), alpha, tolerance, max_iterations)
        return torch.from_numpy(solved).T.contiguous()
    q, g = sources.shape
    blocks = -(-q // native.WALKS)
    source = functional.pad(sources, (0, 0, 0, blocks * native.WALKS - q))
    source = source.view(blocks, native.WALKS, g).transpose(1, 2).contiguous()
    solution = torch.empty_like(source)
    starts, column = graph.indptr.astype(np.int64, copy=False), graph.indices.astype(np.int32, copy=False)
    walk = native.Walk(
        starts=starts.ctypes.data,
        column=column.ctypes.data,
        weight=graph.data.ctypes.data,
        source=source.data_ptr(),
        solution=solution.data_ptr(),
        count=g,
        blocks=blocks,
        max_iterations=max_iterations,
        alpha=alpha,
        tolerance=tolerance,
    )
    native.call("solve", walk, sources.dtype)
    return solution.transpose(1, 2).reshape(-1, g)[:q]


def _solve_side_by_side(
    graph: Sparse, sources: Float[np.ndarray, "g q"], alpha: float, tolerance: float, max_iterations: int
) -> Float[np.ndarray, "g q"]:
    """Solves the same systems without the native kernel, one per column."""
    solution, residual, direction = np.zeros_like(sources), sources.copy(), sources.copy()
    squares = (residual**2).sum(0)
    enough = tolerance**2 * squares
    for _ in range(max_iterations):
        going = squares > enough
        if not going.any():
            break
        applied = direction - alpha * (graph @ direction)
        step = _ratio(squares, (direction * applied).sum(0), going)
        solution += step * direction
        residual -= step * applied
        before, squares = squares, np.where(going, (residual**2).sum(0), squares)
        direction *= _ratio(squares, before, going)
        direction += residual
    return solution


def _ratio(
    above: Float[np.ndarray, " q"], below: Float[np.ndarray, " q"], where: np.ndarray
) -> Float[np.ndarray, " q"]:
    ratio: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=where & (below > 0))
    return ratio
