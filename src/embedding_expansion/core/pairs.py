"""The table of similarities that a pair loss reads, and its construction for losses without expansion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.checks import check_name
from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.chosen import ChosenPairs
from embedding_expansion.core.inputs import Labels, renamed, validates

Metric: TypeAlias = Literal["euclidean", "inner", "snr"]
METRICS: tuple[Metric, ...] = ("euclidean", "inner", "snr")
ROUNDING = 16  # bound on the rounding error in units of eps; 10 was the largest measured in 4 to 8192 dimensions
NO_SIGNAL = 1e-12  # an anchor whose variance times d is at most this has no signal: all its snr distances are 0


@dataclass(frozen=True)
class Pairs:
    """The similarities of a batch with a anchors, p slots for positives and m negatives. Larger is closer.

    With the metric "inner" an entry is the inner product, with "euclidean" it is 1 - d^2/2 for the distance d; for unit
    vectors these are the same. With "snr" it is 1 - d/2 for the signal-to-noise distance d. Entries whose mask is False
    are finite and meaningless.
    """

    positive: Float[Tensor, "a p"]  # anchor i against its positives; p is the largest number of positives, at least 1
    positive_mask: Bool[Tensor, "a p"]
    negative: Float[Tensor, "r m"]  # row i < a: anchor i against its negatives; for the other rows see `partner`
    negative_mask: Bool[Tensor, "r m"]
    partner: Int[Tensor, "a p"] | None  # for each positive, its row of `negative`
    per_class: bool  # whether the anchors of a class share their negatives
    synthetic_share: Float[Tensor, ""] | None = None  # share of synthetic points in the selected pairs, on request
    speeds: tuple[Tensor, Tensor] | None = None  # for balance="sphere": x.u + y.u of `positive` and of `negative`


class _Similarities(torch.autograd.Function):
    """The similarities of all left to all right rows, and those of the positives among them.

    One function for both, because their gradients meet in the same product. Without right rows it is that of the left
    rows with each other, G = E E^T, whose backward is the single product (g + g^T) E.
    """

    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor | None, index: Tensor, euclidean: bool, unit: bool, product: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        a, copies, ctx.moved = len(index), None, euclidean and not unit
        if product is None:
            similarity = left @ (left if right is None else right).T
        else:
            similarity = product.clone() if ctx.moved else product
        alike: Tensor | float = 1 - rounding(left)
        if ctx.moved:  # from the inner product to 1 - d^2/2, which for unit rows is the same
            of_left = similarity.diagonal() if right is None else squared_norms(left)
            alike = torch.rsub(of_left[:a, None], 1, alpha=rounding(left))
            half = torch.rsub(of_left, 0.5, alpha=0.5)
            of_right = half if right is None else torch.rsub(squared_norms(right), 0.5, alpha=0.5)
            similarity.add_(half[:, None]).add_(of_right)
        positive = similarity[:a].gather(1, index)
        if euclidean:
            copies = positive >= alike
            positive.masked_fill_(copies, 1)
        ctx.save_for_backward(left, right, index, copies)
        return positive, similarity

    @staticmethod
    def backward(ctx: Any, of_positive: Tensor, of_similarity: Tensor) -> tuple[Tensor | None, ...]:
        left, right, index, copies = ctx.saved_tensors
        if copies is not None:
            of_positive = of_positive.masked_fill(copies, 0)
        of_product = of_similarity.scatter_add(1, index, of_positive)
        if right is None:
            both = of_product + of_product.T
            if ctx.moved:
                both.diagonal().sub_(both.sum(dim=1))
            return both @ left, None, None, None, None, None
        to_left, to_right = of_product @ right, of_product.T @ left
        if ctx.moved:
            to_left = to_left.addcmul_(of_product.sum(dim=1)[:, None], left, value=-1)
            to_right = to_right.addcmul_(of_product.sum(dim=0)[:, None], right, value=-1)
        return to_left, to_right, None, None, None, None


def similarities(
    left: Float[Tensor, "r d"],
    right: Float[Tensor, "m d"],
    index: Int[Tensor, "a p"],
    metric: Metric,
    *,
    unit: bool,
    product: Float[Tensor, "r m"] | None = None,
) -> tuple[Float[Tensor, "a p"], Float[Tensor, "r m"]]:
    """The similarities of the first a left rows to their positives, the right rows at `index`, and all similarities.

    A similarity of a positive is exactly 1, without gradient, where the distance is within rounding error; see
    `copies_at_one`. `unit` says that all rows are known to be of norm 1. `product` holds the inner products where they
    are known.
    """
    with torch.autocast(left.device.type, enabled=False):
        if metric == "snr":
            return _snr_similarities(left, right, index)
        given = left, None if left is right else right, index, metric == "euclidean", unit, product
        found: tuple[Tensor, Tensor] = _Similarities.apply(*given)
        return found


def _snr_similarities(left: Tensor, right: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """`similarities` of the signal-to-noise distance.

    The variance of a row over its coordinates is its squared norm about their mean.
    """
    centred = left - left.mean(dim=1, keepdim=True)
    other = centred if left is right else right - right.mean(dim=1, keepdim=True)
    signal = squared_norms(centred)[:, None]
    of_right = signal.T if left is right else squared_norms(other)
    half = (signal + of_right) / 2 - centred @ other.T
    similarity = 1 - half * torch.where(signal > NO_SIGNAL, signal, torch.inf).reciprocal()
    return copies_at_one(similarity[: len(index)].gather(1, index), signal[: len(index)], "snr"), similarity


def squared_norms(embeddings: Float[Tensor, "s d"]) -> Float[Tensor, " s"]:
    """The squared norm of every row."""
    return (embeddings * embeddings).sum(dim=1)


def rounding(values: Tensor) -> float:
    """A bound on the rounding error of similarities and squared distances of unit rows in this precision."""
    return ROUNDING * torch.finfo(values.dtype).eps


def as_similarity(
    product: Float[Tensor, "*t"], left: Float[Tensor, "*#t"], right: Float[Tensor, "*#t"], metric: Metric
) -> Float[Tensor, "*t"]:
    """Converts inner products to similarities of the metric, given the squared norms of the left and right points."""
    return product if metric == "inner" else product + (1 - (left + right) / 2)


def copies_at_one(
    similarity: Float[Tensor, "a p"], square: Float[Tensor, "a 1"], metric: Literal["euclidean", "snr"]
) -> Float[Tensor, "a p"]:
    """Sets similarities of positives to exactly 1, without gradient, where the distance is within rounding error.

    A loss that counts active pairs must not count two copies of an image. The rounding error grows with the squared
    norms of the anchors, `square`, which the table does not hold, so it is corrected here.
    """
    alike = 1 - rounding(similarity) * (square.detach() if metric == "euclidean" else 1)
    return torch.where(similarity >= alike, 1, similarity)  # NaN stays NaN


@renamed(past="from_memory")
@validates
def compare(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    *,
    metric: Metric = "euclidean",
    rows: Int[Tensor, " a"] | None = None,
    from_memory: Bool[Tensor, " b"] | None = None,
    reference: Float[Tensor, "g d"] | None = None,
    reference_labels: Labels | None = None,
    partners: bool = True,
) -> Pairs:
    """Compares every anchor with every other row. The result is the table of a plain pair loss (m = b).

    Args:
        embeddings: (b, d), floating, not normalised here; half precision is compared in float32.
        labels: (b,), whole numbers: a tensor, a list or an array.
        metric: the similarity: "euclidean" is 1 - d^2/2; "inner" is the inner product; "snr" is 1 - d/2 for the
            signal-to-noise distance d, the variance of the difference divided by the variance of the anchor (both over
            coordinates).
        rows: (a,), the rows that are anchors; a row given twice is an anchor twice. By default all rows that are not
            from a memory.
        from_memory: (b,), True for rows that come from a memory. They are positives and negatives, but not anchors.
        reference: (g, d), rows to compare the anchors with instead of the batch itself, such as the embeddings of
            another model or another tower. All rows with the label of an anchor are its positives; no row is skipped
            as being the anchor itself.
        reference_labels: (g,), the labels of the reference.
        partners: also give `negative` a row for every positive that is not an anchor, and let `partner` hold the row
            of each positive. Only losses that read both ends of a pair, such as lifted structure, need it.

    Returns:
        Pairs in which the columns of `negative` are all b rows (or g, with a reference). The positive mask of an anchor
        without positives is False everywhere.

    Raises:
        InvalidInput, InvalidType: if shapes, labels, rows or from_memory do not fit, or a value on the CPU is NaN or
            infinite.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> pairs = compare(points, [7, 7, 8])
        >>> pairs.positive.tolist(), pairs.positive_mask.tolist()
        ([[0.0], [0.0], [-1.0]], [[True], [True], [False]])
        >>> pairs.negative[0].tolist(), pairs.negative_mask[0].tolist()
        ([1.0, 0.0, -1.0], [False, False, True])

    Source: the notation P_i, N_i of Ko & Gu, "Embedding Expansion", CVPR 2020, section 3. Differs from the source:
    distances are stored as similarities, so one table serves losses on distances and losses on inner products.
    """
    check_name("metric", metric, METRICS)
    batch = Batch.prepared(
        Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels), normalize=False, check=False
    )
    return compare_batch(batch, metric, partners=partners)


def compare_batch(batch: Batch, metric: Metric, *, partners: bool) -> Pairs:
    """`compare` for a checked batch."""
    if batch.is_empty:
        return nothing_to_compare(batch.embeddings)
    layout = batch.plain
    index, mask = batch.positives() if layout is None else (layout.positive, layout.positive_mask)
    needed = batch.embeddings if batch.every_row else batch.embeddings[batch.anchors]
    labels, partner = batch.labels if batch.every_row else batch.labels[batch.anchors], None
    missing = batch.anchors[:0]
    if partners:
        missing, partner = batch.partners(index, mask)
        if torch.compiler.is_compiling() or len(missing):
            needed = torch.cat([needed, batch.gallery[missing]])
            labels = torch.cat([labels, batch.gallery_labels[missing]])
    product = batch.product if batch.keeps_product and needed is batch.embeddings and not needed.requires_grad else None
    positive, negative = similarities(needed, batch.gallery, index, metric, unit=batch.unit, product=product)
    negative_mask = labels[:, None] != batch.gallery_labels if layout is None else layout.negative_mask
    speeds = None if batch.heights is None else _speeds(batch, index, missing)
    return Pairs(positive, mask, negative, negative_mask, partner, per_class=False, speeds=speeds)


def _speeds(batch: Batch, index: Int[Tensor, "a p"], missing: Int[Tensor, " k"]) -> tuple[Tensor, Tensor]:
    """`Pairs.speeds` of a plain table with these positives, and with rows for the positives that are not anchors."""
    assert batch.heights is not None
    of_rows, of_gallery = batch.heights
    of_anchors = of_rows[batch.anchors][:, None]
    of_needed = torch.cat([of_anchors, of_gallery[missing][:, None]])
    return of_anchors + of_gallery[index], of_needed + of_gallery


def nothing_to_compare(embeddings: Float[Tensor, "b d"]) -> Pairs:
    """The table of a batch without anchors, connected to the embeddings so that a backward pass works."""
    empty = embeddings.sum() + embeddings.new_zeros(0, 1)
    nowhere = torch.zeros(0, 1, dtype=torch.bool, device=embeddings.device)
    return Pairs(empty, nowhere, empty, nowhere, nowhere.long(), per_class=False)


def narrowed(pairs: Pairs, batch: Batch, columns: Int[Tensor, " g"], chosen: ChosenPairs) -> Pairs:
    """Restricts the table to the chosen pairs.

    A positive pair keeps its slot. A negative pair keeps the column of the negative, which in an expanded table is the
    column of its class. The additional rows of partners are restricted as the rows of anchors are, because the same
    rows are anchors in other blocks or on other ranks. The table does not record which pairs formed a triplet, or how
    often.

    Args:
        pairs: the table, plain or expanded.
        batch: the batch that the table is made from.
        columns: (g,), the column of `negative` for each row of the gallery.
        chosen: the pairs to keep. Pairs that contradict the labels have no effect.
    """
    if batch.is_empty:
        return pairs
    rows, (index, used) = len(batch.labels), batch.positives()
    near = _marked(chosen.anchors, chosen.positives, rows, len(batch.gallery_labels))
    far = _marked(chosen.of_negatives, columns[chosen.negatives], rows, pairs.negative.shape[1])
    if chosen.reach is not None:
        near[:, chosen.reach :] = True
        far[:, columns[chosen.reach :]] = True  # a column is kept if one of its pairs is
        far[chosen.reach :] = True
    of_table = batch.anchors
    if pairs.partner is not None and not batch.has_reference:
        of_table = torch.cat([of_table, batch.partners(index, used)[0]])
    left = far[of_table]
    return replace(
        pairs,
        positive_mask=pairs.positive_mask & near[batch.anchors].gather(1, index),
        negative_mask=torch.cat([pairs.negative_mask[: len(left)] & left, pairs.negative_mask[len(left) :]]),
    )


def selective(pairs: Pairs) -> Pairs:
    """The table whose positives pass no gradient where a negative of the anchor is more similar than they are.

    Source: Xuan, Stylianou, Liu & Pless, "Hard Negative Examples are Hard, but Useful", ECCV 2020, which drops the pull
    of such a triplet. Differs from the source: there the triplet is an easy positive with a hard negative, and the
    push is that of another loss (see `selectively_contrastive`); here the rule is applied to every positive of a table.
    """
    a = len(pairs.positive)
    if pairs.negative.shape[1] == 0:
        return pairs
    negative, mask = pairs.negative[:a].detach(), pairs.negative_mask[:a]
    hardest = torch.where(mask, negative, -torch.inf).amax(dim=1, keepdim=True)
    return replace(pairs, positive=torch.where(hardest > pairs.positive, pairs.positive.detach(), pairs.positive))


def _marked(
    row: Int[Tensor, " k"], column: Int[Tensor, " k"], rows: int, columns: int
) -> Bool[Tensor, "{rows} {columns}"]:
    mask = torch.zeros(rows, columns, dtype=torch.bool, device=row.device)
    mask[row, column] = True
    return mask
