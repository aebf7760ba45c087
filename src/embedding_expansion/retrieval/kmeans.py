"""k-means: Lloyd's algorithm from k-means++ or sampled starts, exactly and in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_number, as_whole, check_name
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.centers import TABLE_BYTES, nearest_center
from embedding_expansion.retrieval.inputs import arithmetic_dtype, embedding_rows, generator_of

# The most rounds of k-means++: up to this k the centers are drawn one at a time, for a larger k several at a time.
ROUNDS = 256

STARTS = ("k-means++", "sample")


@dataclass(frozen=True)
class Clusters:
    """The result of k-means.

    Attributes:
        centers: (k, d), the mean of each cluster.
        assignment: (n,), int64, the nearest center of each row.
        inertia: the sum over rows of the squared distance to that center.
        iterations: how often the centers were moved.
        converged: whether it converged before `max_iterations`.
    """

    centers: Float[Tensor, "k d"]
    assignment: Int[Tensor, " n"]
    inertia: float
    iterations: int
    converged: bool


@torch.no_grad()
@validates
def kmeans(
    embeddings: Tensor | np.ndarray,
    k: int,
    *,
    start: Literal["k-means++", "sample"] = "k-means++",
    seed: int = 0,
    restarts: int = 1,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> Clusters:
    """Clusters rows around k means by Lloyd's algorithm, exactly and in bounded memory.

    k-means++ draws the initial centers from the rows, in proportion to the squared distance from the centers drawn
    before, and keeps the best of 2 + ln k candidates; with more than 256 centers several are drawn at a time. `sample`
    draws k rows uniformly, which is fast and mostly ends at a larger inertia. A center that loses all its rows moves to
    the row farthest from its center. The result depends only on the seed, the machine and its number of threads.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array. The rows are not normalised; distances are computed
            in float32 (float64 if they are float64), on their device.
        k: the number of clusters, 1 to n.
        start: how to choose the initial centers, `k-means++` or `sample`.
        seed: of the random choice of the initial centers.
        restarts: how many runs to make; the result with the smallest inertia is returned.
        max_iterations: the most iterations of a run.
        tolerance: a run has converged when an iteration lowers the inertia by at most this share.

    Raises:
        InvalidInput: an empty or non-finite matrix, k beyond the number of rows, an option out of its range, or an
            unknown start.
        InvalidType: embeddings that are not a floating-point matrix, or a count that is not a whole number.

    Example:
        >>> kmeans(np.array([[0.0], [1.0], [10.0], [11.0]]), 2).inertia
        1.0

    Source: D. Arthur and S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
    Differs from the source: the best of several candidates is taken (proposed in section 5 of the source), and for k
        above 256 the centers are drawn in 256 rounds.
    """
    rows = embedding_rows(embeddings)
    k, restarts = as_whole(k, "k", least=1), as_whole(restarts, "restarts", least=1)
    max_iterations = as_whole(max_iterations, "max_iterations", least=1)
    if k > len(rows):
        raise InvalidInput(f"k is {k} but embeddings has {len(rows)} rows; pass at most as many clusters as rows")
    check_name("start", start, STARTS)
    tolerance = as_number(tolerance, "tolerance", 0)
    rows = rows.to(arithmetic_dtype(rows.dtype))
    # Distances are computed from inner products, which lose digits if all rows share a large mean.
    mean = rows.mean(0)
    centred, random = rows - mean, generator_of(seed)
    if not math.isfinite(float(torch.linalg.vector_norm(centred))):
        raise InvalidInput(f"the squares of embeddings leave the range of {rows.dtype}; divide the rows by a number")
    with torch.autocast(rows.device.type, enabled=False):
        starts = (
            _start(centred, k, random) if start == "k-means++" else centred[random.choice(len(rows), k, replace=False)]
            for _ in range(restarts)
        )
        runs = [_lloyd(centred, centers, max_iterations, float(tolerance)) for centers in starts]
    best = min(runs, key=lambda run: run.inertia)
    return Clusters(best.centers + mean, best.assignment, best.inertia, best.iterations, best.converged)


def _start(rows: Float[Tensor, "n d"], k: int, random: np.random.Generator) -> Float[Tensor, "k d"]:
    """Draws k rows as centers by k-means++, each the best of a few candidates."""
    per_round, trials = -(-k // ROUNDS), 2 + int(math.log(k))
    taken = np.array([random.integers(len(rows))])
    distances = nearest_center(rows, rows[taken])[1]
    while len(taken) < k:
        # A row is drawn once, even if rounding leaves it a distance from itself.
        distances[taken] = 0
        count = min(per_round, k - len(taken))
        weights = distances.double().cpu().numpy()
        if weights.any():
            drawn = _draw(weights, count * trials, random)
            totals = _totals_with(rows, distances, rows[drawn]).view(count, trials)
            best = np.unique(drawn.reshape(count, trials)[np.arange(count), totals.argmin(1).cpu().numpy()])
        else:
            # All remaining rows are equal to a center.
            best = random.choice(np.setdiff1d(np.arange(len(rows)), taken), k - len(taken), replace=False)
        distances = torch.minimum(distances, nearest_center(rows, rows[best])[1])
        taken = np.concatenate([taken, best])
    return rows[taken]


def _draw(weights: Float[np.ndarray, " n"], count: int, random: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    """Draws indices in proportion to their weight, with replacement; never one of weight 0."""
    bounds = weights.cumsum()
    drawn = np.searchsorted(bounds, random.random(count) * bounds[-1], side="right")
    indices: np.ndarray = np.minimum(drawn, np.flatnonzero(weights)[-1])
    return indices


def _totals_with(
    rows: Float[Tensor, "n d"], distances: Float[Tensor, " n"], candidates: Float[Tensor, "m d"]
) -> Float[Tensor, " m"]:
    """For each candidate, what the inertia would be if it were added to the centers."""
    totals = torch.zeros(len(candidates), dtype=torch.float64, device=rows.device)
    norms = candidates.square().sum(1)
    size = max(1, TABLE_BYTES // (4 * len(candidates) * rows.dtype.itemsize))
    for part, known in zip(torch.split(rows, size), torch.split(distances, size), strict=True):
        squares = torch.addmm(norms, part, candidates.T, alpha=-2).add_(part.square().sum(1, keepdim=True))
        totals += torch.minimum(squares.clamp_(min=0), known.unsqueeze(1), out=squares).sum(0)
    return totals


def _lloyd(
    rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], max_iterations: int, tolerance: float
) -> Clusters:
    assignment, distances = nearest_center(rows, centers)
    inertia, converged, iterations = float(distances.sum(dtype=torch.float64)), False, 0
    rounding = torch.finfo(rows.dtype).eps * float(rows.square().sum(1).max())
    while not converged and iterations < max_iterations:
        iterations += 1
        centers = move_centers(rows, assignment, distances, len(centers))
        before, last = inertia, assignment
        assignment, distances = nearest_center(rows, centers)
        inertia = float(distances.sum(dtype=torch.float64))
        settled = before - inertia <= tolerance * before or torch.equal(assignment, last)
        # A center without rows can still lower the inertia, unless every row lies on its center.
        used = bool(torch.bincount(assignment, minlength=len(centers)).all()) or float(distances.max()) <= rounding
        converged = settled and used
    return Clusters(centers, assignment, inertia, iterations, converged)


def move_centers(
    rows: Float[Tensor, "n d"], assignment: Int[Tensor, " n"], distances: Float[Tensor, " n"], k: int
) -> Float[Tensor, "k d"]:
    """The mean of each cluster. The first empty cluster gets the row farthest from its center, the next the second."""
    counts = torch.bincount(assignment, minlength=k)
    # Summed over sorted segments, because adding at an index has no fixed order on CUDA.
    order = assignment.sort(stable=True).indices
    centers = torch.segment_reduce(rows[order], "sum", lengths=counts, axis=0) / counts.clamp(min=1).unsqueeze(1)
    empty = (counts == 0).nonzero().squeeze(1)
    centers[empty] = rows[distances.sort(descending=True, stable=True).indices[: len(empty)]]
    return centers
