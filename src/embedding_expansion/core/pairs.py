"""The table of similarities that a pair loss reads, and how the plain losses make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from embedding_expansion.core.grouping import Classes, group
from embedding_expansion.core.inputs import (
    Labels,
    as_batch,
    as_past,
    as_rows,
    check_finite,
    check_name,
    validates,
)

Metric: TypeAlias = Literal["euclidean", "inner"]
METRICS: tuple[Metric, ...] = ("euclidean", "inner")


@dataclass(frozen=True)
class Pairs:
    """The similarities of a batch: a anchors, p slots for positives, m negatives. Larger is closer.

    With the metric "inner" an entry is the inner product, with "euclidean" 1 - d^2/2 of the distance d; for unit
    vectors these are the same. Masked entries are finite and mean nothing.
    """

    positive: Float[Tensor, "a p"]  # anchor i against its positives; p is the most that any anchor has, at least 1
    positive_mask: Bool[Tensor, "a p"]
    negative: Float[Tensor, "r m"]  # row i < a: anchor i against its negatives; further rows: see partner
    negative_mask: Bool[Tensor, "r m"]
    partner: Int[Tensor, "a p"] | None  # the row of `negative` that belongs to that positive
    per_class: bool  # the negatives belong to the anchor's class: its anchors share them


class _Gram(torch.autograd.Function):
    """G = E E^T, whose backward is the single product (g + g^T) E. Once differentiable."""

    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(embeddings)
        return embeddings @ embeddings.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (embeddings,) = ctx.saved_tensors
        product: Tensor = (grad + grad.T) @ embeddings
        return product


def widened(embeddings: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """Half precision as float32: its rounding is larger than what tells the hardest pairs apart."""
    return embeddings.float() if embeddings.dtype in (torch.float16, torch.bfloat16) else embeddings


def inner_products(
    embeddings: Float[Tensor, "b d"], rows: Int[Tensor, " r"] | None = None
) -> tuple[Float[Tensor, "r b"], Float[Tensor, " b"]]:
    """Inner products of the rows named (default all) with all rows, and the squared norm of every row.

    Computed in float32 or better, with autocast off.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings = widened(embeddings)
        if rows is None:
            product = _Gram.apply(embeddings)
            return product, product.diagonal()
        return embeddings[rows] @ embeddings.T, (embeddings * embeddings).sum(dim=1)


def as_similarity(
    product: Float[Tensor, "*t"], left: Float[Tensor, "*#t"], right: Float[Tensor, "*#t"], metric: Metric
) -> Float[Tensor, "*t"]:
    """An inner product as the metric's similarity, given the squared norms of the two points."""
    return product if metric == "inner" else product + (1 - (left + right) / 2)


def with_partners(
    classes: Classes, rows: Int[Tensor, " a"], *, partners: bool
) -> tuple[Int[Tensor, " r"], Int[Tensor, "a p"], Bool[Tensor, "a p"], Int[Tensor, "a p"] | None]:
    """The anchors' positives, and the rows whose negatives are needed: the anchors', then their positives'."""
    index, mask = classes.positives(rows)
    if not partners:
        return rows, index, mask, None
    row_of = torch.full_like(classes.of_row, -1)
    row_of[rows] = torch.arange(len(rows), device=rows.device)
    missing = torch.unique(index[mask & (row_of[index] < 0)])
    row_of[missing] = torch.arange(len(rows), len(rows) + len(missing), device=rows.device)
    return torch.cat([rows, missing]), index, mask, row_of[index]


@validates
def compare(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    *,
    metric: Metric = "euclidean",
    rows: Int[Tensor, " a"] | None = None,
    past: Bool[Tensor, " b"] | None = None,
    partners: bool = True,
) -> Pairs:
    """Compare every anchor with every other row: the table of a plain pair loss (m = b).

    Args:
        embeddings: (b, d), floating, taken as they are; half precision is compared in float32.
        labels: (b,), whole numbers: a tensor, a list or an array.
        metric: what a similarity is: "euclidean", 1 - d^2/2, or "inner", the inner product.
        rows: (a,), the rows that are anchors; all that are not past by default.
        past: (b,), marks rows that come from a memory: positives and negatives, never anchors.
        partners: whether `negative` gets the rows of those positives that are no anchors as well, and `partner` says
            where each positive's row is. Only losses that look at both ends of a pair (lifted structure) need it.

    Returns:
        Pairs with the anchor's negatives among all b rows. An anchor without positives has an all-False mask.

    Raises:
        InvalidInput, InvalidType: if shapes, labels, rows or past do not fit, or on CPU a value is NaN or infinite.

    Example:
        >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> pairs = compare(points, [7, 7, 8])
        >>> pairs.positive.tolist(), pairs.positive_mask.tolist()
        ([[0.0], [0.0], [1.0]], [[True], [True], [False]])
        >>> pairs.negative[0].tolist(), pairs.negative_mask[0].tolist()
        ([1.0, 0.0, -1.0], [False, False, True])

    Source: the notation P_i, N_i of Ko & Gu, "Embedding Expansion", CVPR 2020, section 3. Differs from the source: the
    distance is kept as a similarity, so that one table serves losses on distances and on inner products.
    """
    embeddings, labels = as_batch(embeddings, labels)
    check_name("metric", metric, METRICS)
    past = as_past(past, embeddings)
    anchors = as_rows(rows, past, len(labels), labels.device)
    if embeddings.device.type == "cpu":
        check_finite(embeddings)
    if len(labels) == 0:
        return nothing_to_compare(embeddings)
    classes = group(labels)
    needed, index, mask, partner = with_partners(classes, anchors, partners=partners)
    product, square = inner_products(embeddings, None if rows is None and past is None else needed)
    similarity = as_similarity(product, square[needed, None], square, metric)
    return Pairs(
        positive=similarity[: len(anchors)].gather(1, index),
        positive_mask=mask,
        negative=similarity,
        negative_mask=labels[needed, None] != labels,
        partner=partner,
        per_class=False,
    )


def nothing_to_compare(embeddings: Float[Tensor, "0 d"]) -> Pairs:
    """The pairs of an empty batch, still tied to the embeddings so that a backward pass has somewhere to go."""
    empty = widened(embeddings).sum() + embeddings.new_zeros(0, 1)
    nowhere = torch.zeros(0, 1, dtype=torch.bool, device=embeddings.device)
    return Pairs(empty, nowhere, empty, nowhere, nowhere.long(), per_class=False)
