"""Embedding expansion: synthetic points between embeddings of a class, and the hardest pair of every two classes.

The paper in code: `expand` replaces `compare`, and any pair loss reads its table. No synthetic point is built in
training (see mining.py); `synthesize` makes them for looking.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.grouping import group
from embedding_expansion.core.inputs import (
    Labels,
    as_batch,
    as_count,
    as_past,
    as_rows,
    check_finite,
    check_name,
    validates,
)
from embedding_expansion.core.mining import Winners, read, search, smallest_square
from embedding_expansion.core.pairs import (
    METRICS,
    Metric,
    Pairs,
    as_similarity,
    inner_products,
    nothing_to_compare,
    with_partners,
)
from embedding_expansion.core.points import SCOPES, Scope, check_paired, interpolated


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
    n = as_count(n)
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
    ends, weights = interpolated(ends, n, embeddings.dtype)
    points = weights[:, :1] * embeddings[ends[:, 0]] + weights[:, 1:] * embeddings[ends[:, 1]]
    if normalize_synthetic:
        kept = (points * points).sum(dim=1) >= smallest_square(points.dtype)
        points, ends = functional.normalize(points[kept], dim=1), ends[kept]
    return points, labels[ends[:, 0]]


@validates
def hardest(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    n: int,
    *,
    scope: Scope = "class_pair",
    normalize_synthetic: bool = True,
    metric: Metric = "euclidean",
    past: Bool[Tensor, " b"] | None = None,
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
    embeddings, labels = _checked(embeddings, labels, scope, metric)
    past = as_past(past, embeddings)
    rows = torch.arange(len(labels), device=labels.device)
    product, _ = inner_products(embeddings.detach())
    return search(product, group(labels), rows, as_count(n), scope, normalize_synthetic, metric, past)


@validates
def expand(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    n: int,
    *,
    scope: Scope = "class_pair",
    normalize_synthetic: bool = True,
    metric: Metric = "euclidean",
    rows: Int[Tensor, " a"] | None = None,
    past: Bool[Tensor, " b"] | None = None,
    partners: bool = True,
) -> Pairs:
    """Embedding expansion: the table of a pair loss whose negatives are the hardest pairs of points (m = classes).

    The anchor's negative for another class is the most similar pair of an original or synthetic point of its own class
    and one of the other. Positives stay the originals. The gradient is that of the winning pair.

    Args:
        embeddings: (b, d), floating, taken as they are; half precision is compared in float32. Any number of rows a
            class.
        labels: (b,), whole numbers: a tensor, a list or an array.
        n: synthetic points per pair of a class, a whole number; 0 is mining without synthetic points.
        scope: "class_pair": all points of the anchor's class take part, and its anchors share the result, as in the
            paper. "anchor": the anchor itself and its own n points towards its partner, where rows (0,1), (2,3), ...
            are partners; only partners are expanded, as in the authors' released program.
        normalize_synthetic: whether synthetic points are L2-normalised. One whose squared norm is under 1e-4 (float32;
            float64: 1e-10), such as the middle of opposite points, has no direction and takes no part.
        metric: what a similarity is, and so what is hardest: "euclidean", 1 - d^2/2, or "inner", the inner product.
        rows: (a,), the rows that are anchors; all that are not past by default.
        past: (b,), marks rows that come from a memory: positives, negatives and ends of segments, never anchors; a
            point on the anchor's side has at least one end that is not past.
        partners: in anchor scope, whether `negative` gets the rows of positives that are no anchors, as in `compare`.

    Returns:
        Pairs with one negative per class of the batch, in ascending order of the label, the anchor's own masked.

    Raises:
        InvalidInput, InvalidType: if the batch, n, rows or past cannot be used, or the rows are not paired in anchor
        scope.
        UnknownName: if there is no such scope or metric.

    Example:
        >>> points = torch.tensor([[0.6, 0.8], [0.6, -0.8], [1.0, 0.0], [-1.0, 0.0]])
        >>> expand(points, [0, 0, 1, 1], n=0).negative[0, 1]
        tensor(0.6000)
        >>> expand(points, [0, 0, 1, 1], n=1).negative[0, 1]
        tensor(1.0000)

    Source: Ko & Gu, CVPR 2020, sections 4.1 and 4.2. Differs from the source: computed from inner products alone; exact
    ties give the gradient of the first winner, where the released program gives every tied pair the full gradient and
    so doubles that of a synthetic one, which it holds twice.
    """
    return expand_with_winners(
        embeddings,
        labels,
        n,
        scope=scope,
        normalize_synthetic=normalize_synthetic,
        metric=metric,
        rows=rows,
        past=past,
        partners=partners,
    )[0]


@validates
def expand_with_winners(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    n: int,
    *,
    scope: Scope,
    normalize_synthetic: bool,
    metric: Metric,
    rows: Int[Tensor, " a"] | None,
    past: Bool[Tensor, " b"] | None,
    partners: bool,
) -> tuple[Pairs, Winners]:
    """`expand`, and the winners its negatives were read from: (c, c) in class-pair scope, (r, c) in anchor scope."""
    embeddings, labels = _checked(embeddings, labels, scope, metric)
    n, past = as_count(n), as_past(past, embeddings)
    anchors = as_rows(rows, past, len(labels), labels.device)
    classes = group(labels)
    shared = scope == "class_pair"
    if len(labels) == 0:
        nobody = Winners(
            labels.new_zeros(0, 0, 2, 2), embeddings.new_zeros(0, 0, 2, 2), labels.new_zeros(0, 0, 2).bool()
        )
        return nothing_to_compare(embeddings), nobody
    needed, index, mask, partner = with_partners(classes, anchors, partners=partners and not shared)
    product, square = inner_products(embeddings)
    winners = search(product.detach(), classes, needed, n, scope, normalize_synthetic, metric, past)
    negative = read(product, winners, normalize_synthetic, metric)
    of_needed = classes.of_row[needed]
    pairs = Pairs(
        positive=as_similarity(product[anchors[:, None], index], square[anchors, None], square[index], metric),
        positive_mask=mask,
        negative=negative[of_needed] if shared else negative,
        negative_mask=of_needed[:, None] != torch.arange(len(classes.label), device=labels.device),
        partner=partner,
        per_class=shared,
    )
    return pairs, winners


@validates
def _checked(
    embeddings: Float[Tensor, "b d"], labels: Labels, scope: Scope, metric: Metric
) -> tuple[Float[Tensor, "b d"], Int[Tensor, " b"]]:
    check_name("scope", scope, SCOPES)
    check_name("metric", metric, METRICS)
    embeddings, labels = as_batch(embeddings, labels)
    if embeddings.device.type == "cpu":
        check_finite(embeddings)
    if scope == "anchor":
        check_paired(labels)
    return embeddings, labels
