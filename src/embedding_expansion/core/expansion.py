"""Embedding expansion: synthetic points between embeddings of a class, and the hardest pair of every two classes.

The paper in code: `expand` replaces `compare`, and any pair loss reads its table. No synthetic point is built in
training (see mining.py); `synthesize` makes them for looking.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_whole
from embedding_expansion.core.batch import Batch, Inputs, group
from embedding_expansion.core.inputs import Labels, as_batch, as_count, check_finite, renamed, validates
from embedding_expansion.core.mining import Expansion, Winners, expand_batch, hardest_of_batch
from embedding_expansion.core.pairs import Metric, Pairs
from embedding_expansion.core.search.problem import SMALLEST_SQUARE
from embedding_expansion.core.sides import Scope, interpolated
from embedding_expansion.errors import InvalidInput


@validates
def synthesize(
    embeddings: Float[Tensor, "b d"], labels: Labels, n: int, *, normalize_synthetic: bool = True
) -> tuple[Float[Tensor, "s d"], Int[Tensor, " s"]]:
    """Make the synthetic points themselves, for looking, plotting and testing. Training never needs them.

    Between any two rows i < j of a class, for k = 1..n, lies (k x_i + (n + 1 - k) x_j) / (n + 1), then L2-normalised.

    Args:
        embeddings: (b, d), floating, taken as they are.
        labels: (b,), whole numbers.
        n: points per pair, 0 or more.
        normalize_synthetic: whether to L2-normalise each point. One whose squared norm is under 1e-4 (float32; float64:
            1e-10) has no direction and is left out.

    Returns:
        The points, class by class in ascending order of the label, then by (i, j), then by k; and their labels.

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
        raise InvalidInput("n is infinity, and so many points cannot be made; pass a whole number")
    count = as_whole(n, "n", least=0)
    if embeddings.device.type == "cpu":
        check_finite(embeddings)
    classes = group(labels)
    segments = [
        members[:, torch.triu_indices(members.shape[1], members.shape[1], offset=1, device=labels.device).T].flatten(
            0, 1
        )
        for _, members in classes.by_size()
    ]
    ends = torch.cat([labels.new_zeros(0, 2), *segments])
    ends = ends[torch.argsort(classes.of_row[ends[:, 0]], stable=True)]
    ends, weights = interpolated(ends, count, embeddings.dtype)
    points = weights[:, :1] * embeddings[ends[:, 0]] + weights[:, 1:] * embeddings[ends[:, 1]]
    if normalize_synthetic:
        kept = (points * points).sum(dim=1) >= SMALLEST_SQUARE[points.dtype]
        points, ends = functional.normalize(points[kept], dim=1), ends[kept]
    return points, labels[ends[:, 0]]


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
    """Find the hardest pair of points of every two classes, without gradient.

    Args and errors as in `expand`.

    Returns:
        Winners: class by class (c, c) in class-pair scope, row by class (b, c) in anchor scope. Among equally hard
        pairs the first wins, originals before synthetic points, those in the order of `synthesize`.

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

    The anchor's negative for another class is the most similar pair of an original or synthetic point of its own class
    and one of the other. Positives stay the originals. The gradient is that of the winning pair.

    Args:
        embeddings: (b, d), floating, taken as they are; half precision is compared in float32. Any number of rows a
            class.
        labels: (b,), whole numbers: a tensor, a list or an array.
        n: synthetic points per pair of a class, a whole number; 0 is mining without synthetic points, infinity
            (`math.inf`) the whole arc or segment between the pair, exactly.
        scope: "class_pair": all points of the anchor's class take part, and its anchors share the result, as in the
            paper. "anchor": the anchor itself and its own n points towards its partner, where rows (0,1), (2,3), ...
            are partners; only partners are expanded, as in the authors' released program.
        normalize_synthetic: whether synthetic points are L2-normalised. One whose squared norm is under 1e-4 (float32;
            float64: 1e-10), such as the middle of opposite points, has no direction and takes no part. In float32 a
            cosine with a point of so small a norm is rounded by up to 1e-3, and by 1e-6 with one of norm 0.3; it is
            never above the product of the norms. So where rows of a class come to be opposite, the gradient of a
            similarity to a unit row, which is at most 1 over the point's norm before it is normalised, ends at 100
            (float64: 1e5). With infinite n the points of just that norm take part, their weights as constants.
        metric: what a similarity is, and so what is hardest: "euclidean", 1 - d^2/2, or "inner", the inner product.
        rows: (a,), the rows that are anchors, one given twice an anchor twice; by default all that are not
            from a memory.
        from_memory: (b,), marks rows that come from a memory: positives, negatives and ends of segments, never anchors;
            a point on the anchor's side has at least one end in the batch.
        reference: (g, d), rows to compare the anchors with instead of the batch's own: the positives, and the points of
            the negatives' side, are the reference's; the points of the anchor's side are the batch's.
        reference_labels: (g,), their labels; the columns of `negative` are their classes.
        max_segments: at most so many pairs of a class are expanded, those of neighbouring rows first, so that every
            image takes part; by default all K (K - 1) / 2.
        partners: in anchor scope, whether `negative` gets the rows of positives that are no anchors, as in `compare`.

    Returns:
        Pairs with one negative per class of the batch, in ascending order of the label, the anchor's own masked.

    Raises:
        InvalidInput, InvalidType: if the batch, n, rows or from_memory cannot be used, or the rows are not paired in
            anchor scope.
        UnknownName: if there is no such scope or metric.

    Example:
        >>> points = torch.tensor([[0.6, 0.8], [0.6, -0.8], [1.0, 0.0], [-1.0, 0.0]])
        >>> expand(points, [0, 0, 1, 1], n=0).negative[0, 1]
        tensor(0.6000)
        >>> expand(points, [0, 0, 1, 1], n=1).negative[0, 1]
        tensor(1.)

    Source: Ko & Gu, CVPR 2020, sections 4.1 and 4.2. Differs from the source: computed from inner products alone; exact
    ties give the gradient of the first winner, where the released program gives every tied pair the full gradient and
    so doubles that of a synthetic one, which it holds twice. Infinite n is not in it: the optimum is that of Vasudeva
    et al., "LoOp: Looking for Optimal Hard Negative Embeddings", ICCV 2021, here from inner products; in anchor scope
    the whole segment counts, the partner included. The middle of two opposite points, whose squared norm is under 1e-4
    (float32; float64: 1e-10), is no point for any n.
    """
    expansion = Expansion.checked(n, scope, normalize_synthetic, metric, max_segments)
    batch = Batch.prepared(
        Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels), normalize=False, check=False
    )
    return expand_batch(batch, expansion, partners=partners)
