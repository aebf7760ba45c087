"""The table of similarities that a pair loss reads, and how the plain losses make it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.chosen import ChosenPairs
from embedding_expansion.core.inputs import Labels, check_name, renamed, validates

Metric: TypeAlias = Literal["euclidean", "inner", "snr"]
METRICS: tuple[Metric, ...] = ("euclidean", "inner", "snr")
ROUNDING = 16  # last places of 1 by which rounding parts what is equal: at most 10, measured in 4 to 8192 dimensions
SILENCE = 1e-12  # an anchor whose variance, times d, is no more has no signal: all its snr distances are 0


@dataclass(frozen=True)
class Pairs:
    """The similarities of a batch: a anchors, p slots for positives, m negatives. Larger is closer.

    With the metric "inner" an entry is the inner product, with "euclidean" 1 - d^2/2 of the distance d; for unit
    vectors these are the same. With "snr" it is 1 - d/2 of the signal-to-noise distance d. Masked entries are finite
    and mean nothing.
    """

    positive: Float[Tensor, "a p"]  # anchor i against its positives; p is the most that any anchor has, at least 1
    positive_mask: Bool[Tensor, "a p"]
    negative: Float[Tensor, "r m"]  # row i < a: anchor i against its negatives; further rows: see partner
    negative_mask: Bool[Tensor, "r m"]
    partner: Int[Tensor, "a p"] | None  # the row of `negative` that belongs to that positive
    per_class: bool  # the negatives belong to the anchor's class: its anchors share them
    synthetic_share: Float[Tensor, ""] | None = None  # of synthetic points in the selected pairs, where asked for


class _Gram(torch.autograd.Function):
    """G = E E^T, whose backward is the single product (g + g^T) E."""

    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings)
        return embeddings @ embeddings.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (embeddings,) = ctx.saved_tensors
        product: Tensor = (grad + grad.T) @ embeddings
        return product


def inner_products(left: Float[Tensor, "s d"], right: Float[Tensor, "t d"]) -> Float[Tensor, "s t"]:
    """Inner products of all rows of the one with all rows of the other, with autocast off."""
    with torch.autocast(left.device.type, enabled=False):
        product: Tensor = _Gram.apply(left) if left is right else left @ right.T
        return product


def squared_norms(embeddings: Float[Tensor, "s d"]) -> Float[Tensor, " s"]:
    """The squared norm of every row."""
    return (embeddings * embeddings).sum(dim=1)


def rounding(values: Tensor) -> float:
    """What rounding may make of 0, in similarities and squared distances of unit rows in the width of these values."""
    return ROUNDING * torch.finfo(values.dtype).eps


def as_similarity(
    product: Float[Tensor, "*t"], left: Float[Tensor, "*#t"], right: Float[Tensor, "*#t"], metric: Metric
) -> Float[Tensor, "*t"]:
    """An inner product as the metric's similarity, given the squared norms of the two points."""
    if metric == "snr":
        heard = left > SILENCE
        return torch.where(heard, 1 - (left + right - 2 * product) / (2 * torch.where(heard, left, 1)), 1)
    return product if metric == "inner" else product + (1 - (left + right) / 2)


def copies_at_one(
    similarity: Float[Tensor, "a p"], square: Float[Tensor, "a 1"], metric: Metric
) -> Float[Tensor, "a p"]:
    """Similarities of positives, exactly 1, without gradient, where the distance of two rows is rounding alone.

    Rounding grows with the squared norms of the anchors, `square`, of which a table tells nothing any more; and a loss
    that counts the pairs which add something must not count two copies of an image.
    """
    if metric == "inner":
        return similarity
    alike = 1 - rounding(similarity) * (square.detach() if metric == "euclidean" else 1)
    return torch.where(similarity >= alike, 1, similarity)  # and NaN stays what it is


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
    """Compare every anchor with every other row: the table of a plain pair loss (m = b).

    Args:
        embeddings: (b, d), floating, taken as they are; half precision is compared in float32.
        labels: (b,), whole numbers: a tensor, a list or an array.
        metric: what a similarity is: "euclidean", 1 - d^2/2, "inner", the inner product, or "snr", 1 - d/2 of the
            signal-to-noise distance d, the variance of the difference over the anchor's (over coordinates).
        rows: (a,), the rows that are anchors, one given twice an anchor twice; by default all that are not
            from a memory.
        from_memory: (b,), marks rows that come from a memory: positives and negatives, never anchors.
        reference: (g, d), rows to compare the anchors with instead of the batch's own (another model's, another
            tower's); all of one label are positives. An anchor is never left out of it: it does not hold the anchors.
        reference_labels: (g,), their labels.
        partners: whether `negative` gets the rows of those positives that are no anchors as well, and `partner` says
            where each positive's row is. Only losses that look at both ends of a pair (lifted structure) need it.

    Returns:
        Pairs with the anchor's negatives among all b rows. An anchor without positives has an all-False mask.

    Raises:
        InvalidInput, InvalidType: if shapes, labels, rows or from_memory do not fit, or on CPU a value is NaN or
            infinite.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> pairs = compare(points, [7, 7, 8])
        >>> pairs.positive.tolist(), pairs.positive_mask.tolist()
        ([[0.0], [0.0], [-1.0]], [[True], [True], [False]])
        >>> pairs.negative[0].tolist(), pairs.negative_mask[0].tolist()
        ([1.0, 0.0, -1.0], [False, False, True])

    Source: the notation P_i, N_i of Ko & Gu, "Embedding Expansion", CVPR 2020, section 3. Differs from the source: the
    distance is kept as a similarity, so that one table serves losses on distances and on inner products.
    """
    check_name("metric", metric, METRICS)
    batch = Batch.prepared(
        Inputs.checked(embeddings, labels, rows, from_memory, reference, reference_labels), normalize=False, check=False
    )
    return compare_batch(batch, metric, partners=partners)


def compare_batch(batch: Batch, metric: Metric, *, partners: bool) -> Pairs:
    """`compare` of a batch that is checked."""
    if batch.is_empty:
        return nothing_to_compare(batch.embeddings)
    index, mask = batch.positives()
    needed = batch.embeddings if batch.every_row else batch.embeddings[batch.anchors]
    of_needed, partner = batch.labels[batch.anchors], None
    if partners:
        missing, partner = batch.partners(index, mask)
        if torch.compiler.is_compiling() or len(missing):
            needed = torch.cat([needed, batch.gallery[missing]])
            of_needed = torch.cat([of_needed, batch.gallery_labels[missing]])
    gallery = batch.gallery
    if metric == "snr":  # a row's variance over its coordinates is its squared norm about their mean
        needed, gallery = (rows - rows.mean(dim=1, keepdim=True) for rows in (needed, gallery))
    product = inner_products(needed, gallery)
    left, right, a = squared_norms(needed)[:, None], squared_norms(gallery), len(index)
    similarity = as_similarity(product, left, right, metric)
    return Pairs(
        positive=copies_at_one(similarity[:a].gather(1, index), left[:a], metric),
        positive_mask=mask,
        negative=similarity,
        negative_mask=of_needed[:, None] != batch.gallery_labels,
        partner=partner,
        per_class=False,
    )


def nothing_to_compare(embeddings: Float[Tensor, "b d"]) -> Pairs:
    """The pairs of no anchors, still tied to the embeddings so that a backward pass has somewhere to go."""
    empty = embeddings.sum() + embeddings.new_zeros(0, 1)
    nowhere = torch.zeros(0, 1, dtype=torch.bool, device=embeddings.device)
    return Pairs(empty, nowhere, empty, nowhere, nowhere.long(), per_class=False)


def narrowed(pairs: Pairs, batch: Batch, columns: Int[Tensor, " g"], chosen: ChosenPairs) -> Pairs:
    """The table with the chosen pairs only.

    A positive pair keeps its slot. A negative pair keeps the column of the negative, which in an expanded table is that
    of its class. Rows of negatives that only partners read are narrowed as those of anchors, which they are in other
    blocks or on other ranks. Which pairs occurred together in a triplet, and how often, is lost.

    Args:
        pairs: the table, plain or expanded.
        batch: what it was made from.
        columns: (g,), the column of the negatives that each row of the gallery belongs to.
        chosen: the pairs; those that contradict the labels are none of the table.
    """
    if batch.is_empty:
        return pairs
    rows, (index, used) = len(batch.labels), batch.positives()
    near = _marked(chosen.anchors, chosen.positives, rows, len(batch.gallery_labels))
    far = _marked(chosen.of_negatives, columns[chosen.negatives], rows, pairs.negative.shape[1])
    if chosen.reach is not None:
        near[:, chosen.reach :] = True
        far[:, columns[chosen.reach :]] = True  # a column stays where one of its pairs does
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


def _marked(
    row: Int[Tensor, " k"], column: Int[Tensor, " k"], rows: int, columns: int
) -> Bool[Tensor, "{rows} {columns}"]:
    mask = torch.zeros(rows, columns, dtype=torch.bool, device=row.device)
    mask[row, column] = True
    return mask
