"""Embedding expansion: synthetic points between embeddings of a class, and the hardest pair of each pair of classes.

This is the method of the paper. `expand` replaces `compare`, and any pair loss reads its table. Training never builds
a synthetic point (see mining.py); `synthesize` returns the points for inspection.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_whole
from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.classes import group
from embedding_expansion.core.inputs import Labels, as_batch, as_count, check_finite, renamed, validates
from embedding_expansion.core.mining import Expansion, Winners, expand_batch, hardest_of_batch
from embedding_expansion.core.pairs import Metric, Pairs
from embedding_expansion.core.search.problem import SMALLEST_SQUARE
from embedding_expansion.core.sides import interpolated, segments_between
from embedding_expansion.errors import InvalidInput
from embedding_expansion.forms import Scope


@validates
def synthesize(
    embeddings: Float[Tensor, "b d"], labels: Labels, n: int, *, normalize_synthetic: bool = True
) -> tuple[Float[Tensor, "s d"], Int[Tensor, " s"]]:
    """Computes the synthetic points, for inspection, plots and tests. Training never needs them.

    For any two rows i < j of a class and k = 1..n, the point is (k x_i + (n + 1 - k) x_j) / (n + 1), L2-normalised.

    Args:
        embeddings: (b, d), floating, not normalised here.
        labels: (b,), whole numbers.
        n: points per pair, 0 or more.
        normalize_synthetic: L2-normalise each point. A point whose squared norm is below 1e-4 (in float64 1e-10) has no
            direction and is left out.

    Returns:
        The points, sorted by label, then by (i, j), then by k, and their labels.

    Raises:
        InvalidInput, InvalidType: if the batch or n cannot be used.

    Example:
        >>> points, labels = synthesize(torch.eye(2), [3, 3], n=1)
        >>> [round(x, 4) for x in points[0].tolist()], labels.tolist()
        ([0.7071, 0.7071], [3])

    Source: Ko & Gu, CVPR 2020, section 4.1, equations 6 and 7. Differs from the source: each pair of a class is
    expanded once, not once in each direction.
    """
    embeddings, labels = as_batch(embeddings, labels)
    if as_count(n) == math.inf:
        raise InvalidInput("n is infinity, but only a finite number of points can be listed; pass a whole number")
    count = as_whole(n, "n", least=0)
    if embeddings.device.type == "cpu":
        check_finite(embeddings)
    points, first_ends = points_between(embeddings, labels, count, normalize_synthetic, None)
    return points, labels[first_ends]


def points_between(
    embeddings: Float[Tensor, "b d"],
    labels: Int[Tensor, " b"],
    n: int,
    normalize_synthetic: bool,
    max_segments: int | None,
) -> tuple[Float[Tensor, "s d"], Int[Tensor, " s"]]:
    """The points of `synthesize`, and the first end of each."""
    classes = group(labels)
    segments = [
        members[:, segments_between(members.shape[1], max_segments, labels.device)].flatten(0, 1)
        for _, members in classes.by_size()
    ]
    ends = torch.cat([labels.new_zeros(0, 2), *segments])
    ends = ends[torch.argsort(classes.of_row[ends[:, 0]], stable=True)]
    ends, weights = interpolated(ends, n, embeddings.dtype)
    points = weights[:, :1] * embeddings[ends[:, 0]] + weights[:, 1:] * embeddings[ends[:, 1]]
    if normalize_synthetic:
        kept = (points * points).sum(dim=1) >= SMALLEST_SQUARE[points.dtype]
        points, ends = functional.normalize(points[kept], dim=1), ends[kept]
    return points, ends[:, 0]


@renamed(past="from_memory")
@validates
def hardest(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    n: int | float,
    *,
    scope: Scope = "class_pair",
    normalize_synthetic: bool = True,
    metric: Metric = "euclidean",
    from_memory: Bool[Tensor, " b"] | None = None,
    max_segments: int | None = None,
) -> Winners:
    """Finds the hardest pair of points of each pair of classes, without gradient.

    Arguments and errors are as in `expand`.

    Returns:
        Winners: class by class (c, c) in class-pair scope, row by class (b, c) in the other scopes. Among equally hard
        pairs the first wins: originals come before synthetic points, which are in the order of `synthesize`.

    Example:
        >>> points = functional.normalize(torch.tensor([[1.0, 0.9], [1.0, -0.9], [2.0, 0.1], [-1.0, 0.0]]), dim=1)
        >>> winners = hardest(points, [0, 0, 1, 1], n=1)
        >>> winners.ends[0, 1].tolist(), winners.weights[0, 1].tolist()
        ([[0, 1], [2, 2]], [[0.5, 0.5], [1.0, 0.0]])

    Source: Ko & Gu, CVPR 2020, section 4.2.
    """
    expansion = Expansion.checked(n, scope, normalize_synthetic, metric, max_segments)
    with torch.no_grad():
        return hardest_of_batch(embeddings, labels, expansion, from_memory)


@renamed(past="from_memory")
@validates
def expand(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    n: int | float,
    *,
    scope: Scope = "class_pair",
    normalize_synthetic: bool = True,
    metric: Metric = "euclidean",
    rows: Int[Tensor, " a"] | None = None,
    from_memory: Bool[Tensor, " b"] | None = None,
    reference: Float[Tensor, "g d"] | None = None,
    reference_labels: Labels | None = None,
    max_segments: int | None = None,
    partners: bool = True,
) -> Pairs:
    """Embedding expansion: the table of a pair loss whose negatives are the hardest pairs of points (m = classes).

    For each other class, the negative of an anchor is the most similar pair of points: one original or synthetic point
    of the anchor's class, and one of the other class. Positives are originals only. The gradient is that of the winning
    pair.

    Args:
        embeddings: (b, d), floating, not normalised here; half precision is compared in float32. A class may have any
            number of rows.
        labels: (b,), whole numbers: a tensor, a list or an array.
        n: synthetic points per pair of a class, a whole number. 0 is mining without synthetic points. Infinity
            (`math.inf`) is the whole arc or segment between the pair, computed exactly.
        scope: with "class_pair", the formula of the paper, all points of the anchor's class are searched, and the
            anchors of a class share the result. With "anchor", as in the authors' released program, the search covers
            the anchor and the n points towards its partner, where rows (0,1), (2,3), ... are partners; only partners
            are expanded. With "negative", the anchor itself is compared with all points of the other class.
        normalize_synthetic: L2-normalise synthetic points. A point whose squared norm is below 1e-4 (in float64 1e-10),
            such as the middle of opposite points, has no direction and is excluded. In float32 the rounding error of a
            cosine is up to 1e-3 with a point of such a small norm, and 1e-6 with one of norm 0.3; a cosine never
            exceeds the product of the norms. The gradient of a similarity to a unit row is at most 1 over the norm of
            the point before normalisation. It is therefore bounded by 100 (in float64 1e5) where rows of a class become
            opposite. With infinite n, the points of exactly this norm are included, with constant weights.
        metric: the similarity that defines the hardest pair: "euclidean" is 1 - d^2/2, "inner" is the inner product.
        rows: (a,), the rows that are anchors; a row given twice is an anchor twice. By default all rows that are not
            from a memory.
        from_memory: (b,), True for rows that come from a memory. They are positives, negatives and ends of segments,
            but not anchors; a point on the anchor's side has at least one end in the batch.
        reference: (g, d), rows to compare the anchors with instead of the batch itself. The positives and the points of
            the negatives' side come from the reference; the points of the anchor's side come from the batch.
        reference_labels: (g,), the labels of the reference; its classes are the columns of `negative`.
        max_segments: the largest number of pairs of a class to expand, starting with neighbouring rows so that every
            image is used; by default all K (K - 1) / 2 pairs.
        partners: in anchor scope, also give `negative` a row for every positive that is not an anchor, as in `compare`.

    Returns:
        Pairs with one negative per class of the batch, in ascending order of the label. The mask excludes the anchor's
        own class.

    Raises:
        InvalidInput, InvalidType: if the batch, n, rows or from_memory cannot be used, or the rows are not paired in
            anchor scope.
        UnknownName: if the scope or the metric does not exist.

    Example:
        >>> points = torch.tensor([[0.6, 0.8], [0.6, -0.8], [1.0, 0.0], [-1.0, 0.0]])
        >>> expand(points, [0, 0, 1, 1], n=0).negative[0, 1]
        tensor(0.6000)
        >>> expand(points, [0, 0, 1, 1], n=1).negative[0, 1]
        tensor(1.)

    Source: Ko & Gu, CVPR 2020, sections 4.1 and 4.2. Differs from the source: everything is computed from inner
    products. Exact ties give the gradient of the first winner; the released program gives every tied pair the full
    gradient, which doubles the gradient of a synthetic point because the program holds the point twice. Infinite n is
    not in the source: the optimum is that of Vasudeva et al., "LoOp: Looking for Optimal Hard Negative Embeddings",
    ICCV 2021, here from inner products; in anchor scope it covers the whole segment, including the partner. For every
    n, points whose squared norm is below 1e-4 (in float64 1e-10), such as the middle of two opposite points, are
    excluded.
    """
    expansion = Expansion.checked(n, scope, normalize_synthetic, metric, max_segments)
    batch = Batch.prepared(
        Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels), normalize=False, check=False
    )
    return expand_batch(batch, expansion, partners=partners)
