"""Converts an expanded table to a square one, row against row, as losses of other libraries index it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.pairs import Metric, Pairs, squared_norms
from embedding_expansion.core.terms import distance, squared_distance

Form: TypeAlias = Literal["pairs", "triplets", "table"]
Indices: TypeAlias = tuple[Tensor, ...]
FAR = 1e9  # a distance at which a pair adds nothing to a loss that reads its whole table


@dataclass(frozen=True)
class Scale:
    """Converts our similarities to a distance of pytorch-metric-learning."""

    metric: Metric
    power: float

    def __call__(self, similarity: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
        """The inner product or the distance sqrt(2 - 2s), raised to `power`."""
        if self.metric == "inner":
            return similarity if self.power == 1 else similarity**self.power
        if self.power == 2:
            return squared_distance(similarity)
        found = distance(similarity)
        if self.power >= 1:
            return found if self.power == 1 else found**self.power
        apart = found > 0  # at 0 the slope of the power is infinite
        return torch.where(apart, torch.where(apart, found, 1) ** self.power, 0)

    @property
    def far(self) -> float:
        """The entry of a table for a pair that is very far apart."""
        return -FAR if self.metric == "inner" else FAR


def normalized_for(distance: Any, batch: Batch) -> Batch:
    """The batch with normalised rows if the distance of the loss normalises them."""
    if not distance.normalize_embeddings:
        return batch
    rows = functional.normalize(batch.embeddings, dim=1)
    return replace(batch, embeddings=rows, gallery=rows)


def representatives(batch: Batch, shift: int = 0) -> Int[Tensor, "b c"]:
    """For every row, one row of every class: the entry of the square table that holds the hardest pair of the classes.

    For classes of at least two rows, no two rows are each other's representatives. A loss that takes (i, k) and (k, i)
    for one pair therefore finds one pair per anchor and other class.
    """
    classes = batch.classes
    rank = torch.empty_like(classes.order)
    rank[classes.order] = torch.arange(len(rank), device=rank.device)
    of_row = classes.of_row[:, None]
    later = of_row > torch.arange(len(classes.label), device=of_row.device)
    place = rank[:, None] - classes.start[of_row] + later + shift
    return classes.order[classes.start + place % classes.size]


def square_table(
    pairs: Pairs, batch: Batch, scale: Scale, columns: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b b"]:
    """The distances of all rows: of originals within a class, of the hardest pair of the classes for other rows.

    The masks of `pairs` have no effect, so a miner may have restricted them. `columns` are those of the rows in
    `pairs.negative`; by default those of their classes.
    """
    b = len(batch.labels)
    everyone = torch.arange(b, device=batch.labels.device)[:, None]
    index, mask = batch.positives()
    square = squared_norms(batch.embeddings)[:, None]
    itself = square if scale.metric == "inner" else torch.ones_like(square)
    # Unused slots are written to an additional column, which is dropped.
    where = torch.cat([torch.where(mask, index, b), everyone], dim=1)
    columns = batch.classes.of_row if columns is None else columns
    table = torch.cat([pairs.negative[:, columns], torch.zeros_like(square)], dim=1)
    table = table.scatter(1, where, torch.cat([pairs.positive, itself], dim=1))
    return scale(table[:, :b])


def alone(
    table: Float[Tensor, "b b"], negative_mask: Bool[Tensor, "b c"], batch: Batch, far: float
) -> Float[Tensor, "b b"]:
    """The table with one entry for each negative; the other entries of its class are set to `far`."""
    classes = batch.classes.of_row
    kept = classes[:, None] == classes
    rows, columns = negative_mask.nonzero(as_tuple=True)
    kept[rows, representatives(batch)[rows, columns]] = True
    return torch.where(kept, table, far)


def indices(pairs: Pairs, batch: Batch, form: Form, shift: int = 0) -> Indices:
    """The unmasked pairs (anchors, positives, anchors, negatives) or triplets; negatives are representatives."""
    index, _ = batch.positives()
    negatives = representatives(batch, shift)
    if form == "triplets":
        a, p, c = (pairs.positive_mask[:, :, None] & pairs.negative_mask[:, None]).nonzero(as_tuple=True)
        return a, index[a, p], negatives[a, c]
    a, p = pairs.positive_mask.nonzero(as_tuple=True)
    other, c = pairs.negative_mask.nonzero(as_tuple=True)
    return a, index[a, p], other, negatives[other, c]
