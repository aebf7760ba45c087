"""What is compared with what in an expanded table: told by the labels alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.grouping import group
from embedding_expansion.core.sides import Scope, Side, anchor_side, check_paired, class_side, some_classes
from embedding_expansion.errors import InvalidInput


@dataclass(frozen=True)
class Plan:
    """The two sides of the search, and how a table is read off what it finds."""

    left: Side
    right: Side
    anchors_at: Int[Tensor, " a"]  # where each anchor stands among the left's rows
    positives_at: Int[Tensor, "a p"]  # where each of its positives stands among the right's
    positive_mask: Bool[Tensor, "a p"]
    negative_mask: Bool[Tensor, "r c"]
    partner: Int[Tensor, "a p"] | None  # as in Pairs
    groups: Int[Tensor, " r"] | None  # the left's group of every row of the table; None: as they are
    order: Int[Tensor, " c"] | None  # the right's groups in the order of their classes; None: as they are

    @cached_property
    def entries(self) -> Int[Tensor, "a p"]:
        """Where the positives stand in the flattened product of the sides' rows."""
        return self.anchors_at[:, None] * self.right.rows.shape[0] + self.positives_at

    @property
    def same_rows(self) -> bool:
        """Whether the same rows stand on both sides, so that their product holds their squared norms."""
        return self.left.rows is self.right.rows

    @property
    def symmetric(self) -> bool:
        """Whether the pair (h, g) is that of (g, h) turned round."""
        return self.left is self.right


def plan_of(batch: Batch, scope: Scope, max_segments: int | None, *, partners: bool) -> Plan:
    """The plan of a batch with anchors; `partners` as in `expand`.

    Raises:
        InvalidInput: if the batch cannot be expanded by anchor.
    """
    if scope == "anchor":
        _check_by_anchor(batch, partners=partners)
    index, mask = batch.positives()
    needed, of_needed, partner = batch.anchors, batch.of_anchor, None
    if partners and scope == "anchor":
        missing, partner = batch.partners(index, mask)
        needed = torch.cat([batch.anchors, missing])
        of_needed = batch.classes.of_row[needed]
    right = _right(batch, scope, max_segments)
    left, groups = _left(batch, scope, max_segments, right, needed)
    of_left = _place(left.rows, batch.labels.shape[0])
    of_right = of_left if left.rows is right.rows else _place(right.rows, batch.gallery_labels.shape[0])
    return Plan(
        left=left,
        right=right,
        anchors_at=of_left[batch.anchors],
        positives_at=of_right[index],
        positive_mask=mask,
        negative_mask=of_needed[:, None] != torch.arange(batch.classes.label.shape[0], device=of_needed.device),
        partner=partner,
        groups=groups,
        order=torch.argsort(right.label) if len(right.layout.runs) > 1 else None,  # several sizes stand by size
    )


def _check_by_anchor(batch: Batch, *, partners: bool) -> None:
    if batch.proxies == "anchors":
        raise InvalidInput("proxies are the anchors of this loss and have no partners; use scope='class_pair'")
    check_paired(batch.labels)
    if batch.has_reference and batch.proxies is None:
        check_paired(batch.gallery_labels)
        if partners:
            raise InvalidInput(
                "a loss that reads both ends of a positive pair cannot be expanded by anchor against a reference; "
                "use scope='class_pair'"
            )


def _right(batch: Batch, scope: Scope, max_segments: int | None) -> Side:
    """The negatives' side. Proxies offer themselves only: a point between two of a class was never learnt."""
    if batch.proxies == "gallery":
        return class_side(batch.classes, scope="class_pair", max_segments=0)
    return class_side(batch.classes, scope=scope, max_segments=max_segments)


def _left(
    batch: Batch, scope: Scope, max_segments: int | None, right: Side, needed: Int[Tensor, " r"]
) -> tuple[Side, Int[Tensor, " r"] | None]:
    """The anchors' side, and its group that each anchor belongs to (None: each to its own)."""
    classes = group(batch.labels) if batch.has_reference else batch.classes
    if scope == "anchor":
        every_row = right.rows if needed.shape[0] == batch.labels.shape[0] and not batch.has_reference else None
        side = anchor_side(classes, needed, every_row)
        return (replace(side, label=batch.of_anchor) if batch.has_reference else side), None
    whole = class_side(classes, scope=scope, max_segments=max_segments) if batch.has_reference else right
    of_anchor = classes.of_row[needed]
    if batch.every_row and not batch.has_reference and len(right.layout.runs) == 1:
        return right, of_anchor
    chosen = torch.zeros_like(classes.label, dtype=torch.bool).index_fill_(0, of_anchor, True)
    left = some_classes(whole, chosen, batch.past, max_segments)
    groups = _place(left.label, len(classes.label))[of_anchor]
    if batch.has_reference:
        left = replace(left, label=batch.classes.find(classes.label)[left.label])
    return left, groups


def _place(members: Int[Tensor, " s"], total: int) -> Int[Tensor, " b"]:
    """Where each of `total` numbers stands among the members."""
    place = members.new_zeros(total)
    place[members] = torch.arange(members.shape[0], device=members.device)
    return place
