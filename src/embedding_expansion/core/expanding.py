"""How a batch becomes an expanded table: the two sides, their inner products, the hardest pairs, and the `Pairs`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.grouping import group
from embedding_expansion.core.inputs import Labels, as_count, as_limit, as_past, check_name, check_unit, validates
from embedding_expansion.core.mining import Winners, Winning, search, winners_of
from embedding_expansion.core.pairs import (
    METRICS,
    Metric,
    Pairs,
    as_similarity,
    inner_products,
    nothing_to_compare,
    squared_norms,
)
from embedding_expansion.core.problem import Found, Problem, Rules
from embedding_expansion.core.sides import SCOPES, Scope, Side, anchor_side, check_paired, class_side, some_classes
from embedding_expansion.errors import InvalidInput


@dataclass(frozen=True)
class Expansion:
    """What is a synthetic point, and what is hardest; the options of `expand`."""

    n: int | float
    scope: Scope
    normalize_synthetic: bool
    metric: Metric
    max_segments: int | None

    @classmethod
    @validates
    def checked(
        cls, n: int | float, scope: Scope, normalize_synthetic: bool, metric: Metric, max_segments: int | None
    ) -> Expansion:
        """The options, or an error that says which cannot be used."""
        check_name("scope", scope, SCOPES)
        check_name("metric", metric, METRICS)
        if as_count(n) == math.inf:
            raise InvalidInput("n is inf, which is not there yet; pass a whole number, e.g. 8")
        return cls(as_count(n), scope, normalize_synthetic, metric, as_limit("max_segments", max_segments))

    @property
    def rules(self) -> Rules:
        """What the search has to know."""
        return Rules(self.n, self.normalize_synthetic, self.metric)


@dataclass(frozen=True)
class Expanded:
    """The table, and where each entry came from."""

    pairs: Pairs
    found: Found
    left: Side
    right: Side

    def synthetic_share(self) -> Float[Tensor, ""]:
        """The share of synthetic points among the points of the selected pairs of different classes."""
        different = self.left.label[:, None] != self.right.label
        if self.found.half:
            different = different.triu()
        chosen = self.found.is_synthetic & different[..., None]
        return chosen.sum() / (2 * different.sum()).clamp(min=1)


def expand_batch(batch: Batch, expansion: Expansion, *, partners: bool) -> Expanded:
    """The expanded table of a batch; `partners` as in `expand`."""
    _check(batch, expansion, partners)
    if batch.is_empty:
        return _nothing(batch)
    anchors, of_needed, partner = _needed(batch, partners=partners and expansion.scope == "anchor")
    index, mask = batch.positives
    right = class_side(batch.classes, scope=expansion.scope, max_segments=expansion.max_segments)
    left, group_of_anchor = _left(batch, expansion, right, anchors)
    same = left.rows is right.rows
    x = batch.embeddings[left.rows]
    y = x if same else batch.gallery[right.rows]
    product = inner_products(x, y)
    own = (None, None) if same else (left.own_products(x), right.own_products(y))
    positives = _place(left.rows, len(batch.labels))[batch.anchors][:, None] * len(right.rows)
    positives = positives + _place(right.rows, len(batch.gallery))[index]
    symmetric = same and expansion.scope == "class_pair" and left.barred is None
    value, positive, ends, weights = Winning.apply(product, *own, positives, left, right, expansion.rules, symmetric)
    found = Found(ends, weights, value.detach(), half=symmetric)
    if len(right.segments) > 1:  # the groups of several sizes stand by size
        value = value[:, torch.argsort(right.label)]
    square = squared_norms(batch.embeddings)
    theirs = squared_norms(batch.gallery) if batch.has_reference else square
    pairs = Pairs(
        positive=as_similarity(positive, square[batch.anchors, None], theirs[index], expansion.metric),
        positive_mask=mask,
        negative=value if group_of_anchor is None else value[group_of_anchor],
        negative_mask=of_needed[:, None] != torch.arange(len(batch.classes.label), device=of_needed.device),
        partner=partner,
        per_class=expansion.scope == "class_pair",
    )
    return Expanded(pairs, found, left, right)


@validates
def hardest_of_batch(
    embeddings: Float[Tensor, "b d"], labels: Labels, expansion: Expansion, past: Bool[Tensor, " b"] | None
) -> Winners:
    """The winners for all classes, or in anchor scope for all rows, whichever are anchors."""
    batch = Batch.checked(embeddings, labels, None, None, None, None)
    past = as_past(past, batch.embeddings)
    _check(batch, expansion, partners=False)
    if batch.is_empty:
        expanded = _nothing(batch)
        return winners_of(expanded.found, expanded.left, expanded.right, batch.anchors)
    right = class_side(batch.classes, scope=expansion.scope, max_segments=expansion.max_segments)
    everyone = torch.ones_like(batch.classes.label, dtype=torch.bool)
    if expansion.scope == "class_pair":
        left = some_classes(right, everyone, past)
        order = torch.argsort(left.label)
    else:
        left = anchor_side(batch.classes, batch.anchors, right.rows)
        order = torch.arange(len(batch.anchors), device=batch.anchors.device)
    product = inner_products(batch.embeddings[right.rows], batch.embeddings[right.rows])
    left_own, right_own = (product.flatten()[side.own_index(product.shape[1])] for side in (left, right))
    symmetric = expansion.scope == "class_pair" and past is None
    found = search(Problem(product, left, right, left_own, right_own, expansion.rules, symmetric))
    return winners_of(found, left, right, order)


def _check(batch: Batch, expansion: Expansion, partners: bool) -> None:
    """Raise InvalidInput where this batch cannot be expanded so."""
    if math.isinf(expansion.n) and expansion.normalize_synthetic:
        check_unit(batch.embeddings)
        if batch.has_reference:
            check_unit(batch.gallery)
    if expansion.scope == "anchor":
        check_paired(batch.labels)
        if batch.has_reference:
            check_paired(batch.gallery_labels)
            if partners:
                raise InvalidInput(
                    "a loss that reads both ends of a positive pair cannot be expanded by anchor against a reference; "
                    "use scope='class_pair'"
                )


def _nothing(batch: Batch) -> Expanded:
    none = batch.labels.new_zeros(0)
    side = Side(none, none, none, none, None, ())
    empty = batch.embeddings.new_zeros(0, 0)
    found = Found(none.new_zeros(0, 0, 4), empty.new_zeros(0, 0, 2), empty, half=False)
    return Expanded(nothing_to_compare(batch.embeddings), found, side, side)


def _needed(batch: Batch, *, partners: bool) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"], Int[Tensor, "a p"] | None]:
    """The rows whose negatives are looked for, their classes, and which of them belongs to each positive."""
    if not partners:
        return batch.anchors, batch.of_anchor, None
    index, mask = batch.positives
    row_of = torch.full_like(batch.classes.of_row, -1)
    row_of[batch.anchors] = torch.arange(len(batch.anchors), device=row_of.device)
    missing = torch.unique(index[mask & (row_of[index] < 0)])
    row_of[missing] = torch.arange(len(batch.anchors), len(batch.anchors) + len(missing), device=row_of.device)
    needed = torch.cat([batch.anchors, missing])
    return needed, batch.classes.of_row[needed], row_of[index]


def _left(
    batch: Batch, expansion: Expansion, right: Side, needed: Int[Tensor, " r"]
) -> tuple[Side, Int[Tensor, " r"] | None]:
    """The anchors' side, and its group that each anchor belongs to (None: each to its own)."""
    classes = group(batch.labels) if batch.has_reference else batch.classes
    if expansion.scope == "anchor":
        every_row = right.rows if len(needed) == len(batch.labels) and not batch.has_reference else None
        side = anchor_side(classes, needed, every_row)
        return (replace(side, label=batch.of_anchor) if batch.has_reference else side), None
    whole = right
    if batch.has_reference:
        whole = class_side(classes, scope="class_pair", max_segments=expansion.max_segments)
    of_anchor = classes.of_row[needed]
    chosen = torch.zeros_like(classes.label, dtype=torch.bool).index_fill_(0, of_anchor, True)
    left = some_classes(whole, chosen, batch.past)
    group_of = torch.empty_like(classes.label)
    group_of[left.label] = torch.arange(len(left.label), device=group_of.device)
    if batch.has_reference:
        left = replace(left, label=batch.classes.find(classes.label)[left.label])
    return left, group_of[of_anchor]


def _place(rows: Int[Tensor, " s"], total: int) -> Int[Tensor, " b"]:
    """Where each row of the batch stands on a side."""
    place = rows.new_zeros(total)
    place[rows] = torch.arange(len(rows), device=rows.device)
    return place
