"""Diffusion: the similarity of a query spreads over the graph of mutual neighbours of the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval import native
from embedding_expansion.retrieval.inputs import positive_integer
from embedding_expansion.retrieval.ranks import largest
from embedding_expansion.retrieval.rerank.inputs import number_within, unit_sides
from embedding_expansion.retrieval.search import TABLE_BYTES, Comparison, check_sides, excluded_rows, nearest

# Tables of gallery x queries that the solver holds at a time, and the most queries in one: few stay in the cache.
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
    """Ranks the gallery by what a random walk from the query, restarted again and again, leaves on each row.

    With s(x, z) = max(cos(x, z), 0)^gamma:

        A(x, z) = s(x, z) where each is among the k nearest gallery rows of the other, else 0; no row neighbours itself
        S       = D^(-1/2) A D^(-1/2), D the diagonal of A's row sums
        y(x)    = s(query, x) for the query_k gallery rows nearest to the query, else 0
        f       = (1 - alpha) (I - alpha S)^(-1) y

    f is found by conjugate gradient for a block of queries at a time, in float64. The graph is sparse, and the block
    as large as a fixed memory allows. Each query's list depends on the gallery only, not on the other queries.

    Args:
        queries: (q, d), a floating-point tensor or NumPy array of any norm.
        gallery: (g, d), on the same device.
        top: how long the lists are.
        k: neighbours of a gallery row in the graph.
        query_k: gallery rows that a query starts from.
        gamma: exponent of the cosine, 0 or more.
        alpha: how much is passed on in a step, from 0 to below 1; at 0 the query's own neighbours decide.
        tolerance: a query is done when the residual is at most this share of y in norm.
        max_iterations: of conjugate gradient; the paper stops at 20, and the exact solution takes up to 100.
        exclude: (q,), for each query the gallery row that it must not find, -1 for none. The row stays in the graph.
        chunk: rows compared at a time, as in `nearest`.

    Returns:
        Values f (q, top) in descending order, float64, and gallery indices (q, top), int64, on the device of the
        queries. Equal f are ordered by the smaller index; the rows that no path leads to, whose f is 0, come last, by
        their cosine with the query first. A query with fewer candidates gets index -1 and value -inf in the places
        left.

    Raises:
        InvalidInput: an empty or non-finite matrix, sides that do not fit each other, a count below 1, a number out of
            its range, an index in `exclude` that is no gallery row.
        InvalidType: embeddings that are no floating-point matrix, or a number of the wrong kind.

    Example:
        >>> line = torch.tensor([0.0, 0.5, 1.0, 1.5, -0.8, 2.6])  # angles: a chain of four, and one at either end
        >>> rows = torch.stack([line.cos(), line.sin()], dim=1)
        >>> diffusion(rows[:1], rows, 3, k=2, query_k=1, exclude=[0])[1].tolist()
        [[1, 2, 3]]

    Source: A. Iscen, G. Tolias, Y. Avrithis, T. Furon, O. Chum, "Efficient Diffusion on Region Manifolds: Recovering
        Small Objects with Compact CNN Representations", CVPR 2017, sections 3 and 4; M. Donoser and H. Bischof,
        "Diffusion Processes for Retrieval Revisited", CVPR 2013 (the walks compared).
    Differs from the source: one vector an image and no regions; the graph is not cut to the rows nearest to a query;
        rows that the walk does not reach follow by cosine.
    """
    query_rows, gallery_rows = unit_sides(queries, gallery)
    top, k, query_k = (positive_integer(v, name) for v, name in ((top, "top"), (k, "k"), (query_k, "query_k")))
    gamma, alpha = number_within(gamma, "gamma", 0), number_within(alpha, "alpha", 0, 1)
    if alpha == 1:
        raise InvalidInput("alpha is 1, with which the walk never ends; pass a number below 1, such as 0.99")
    tolerance = number_within(tolerance, "tolerance", 0)
    max_iterations = positive_integer(max_iterations, "max_iterations")
    check_sides(query_rows, gallery_rows)
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
        # Behind all that are reached, below 0, come the others in the order of their cosine.
        order = torch.where(reached > 0, reached, cosine - 2).masked_fill_(cosine == -torch.inf, -torch.inf)
        found, columns = largest(order, min(top, g))
        missing = found == -torch.inf
        values[block, : found.shape[1]] = found.clamp(min=0).masked_fill_(missing, -torch.inf).to(device)
        indices[block, : found.shape[1]] = columns.masked_fill(missing, -1).to(device)
    return values, indices


def _sources(cosine: Float[Tensor, "b g"], k: int, gamma: float) -> Float[Tensor, "b g"]:
    """Row y of each query."""
    nearest_cosines, columns = largest(cosine, k)
    weights = nearest_cosines.clamp(0, 1).pow(gamma).masked_fill_(nearest_cosines == -torch.inf, 0)
    return torch.zeros_like(cosine).scatter_(1, columns, weights)


def _graph(gallery: Float[Tensor, "g d"], k: int, gamma: float, chunk: int | None) -> Sparse:
    """S of the gallery."""
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
    """(I - alpha S)^-1 y for several y at once, each with steps of its own."""
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
    """The same without the native kernel, a column each."""
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
