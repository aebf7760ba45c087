"""An expanded table as the square one, row against row, that other libraries' losses index."""

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
    """How a distance of pytorch-metric-learning is told by our similarities."""

    metric: Metric
    power: float

    def __call__(self, similarity: Float[Tensor, "b g"]) -> Float[Tensor, "b g"]:
        """The inner product or the distance sqrt(2 - 2s), to the power that the distance has."""
        if self.metric == "inner":
            return similarity if self.power == 1 else similarity**self.power
        if self.power == 2:
            return squared_distance(similarity)
        found = distance(similarity)
        if self.power >= 1:
            return found if self.power == 1 else found**self.power
        apart = found > 0  # where it is not, the power's slope is infinite
        return torch.where(apart, torch.where(apart, found, 1) ** self.power, 0)

    @property
    def far(self) -> float:
        """What is very far away."""
        return -FAR if self.metric == "inner" else FAR


def measured(distance: Any, batch: Batch) -> Batch:
    """The batch with rows normalised where the distance of the loss does so."""
    if not distance.normalize_embeddings:
        return batch
    rows = functional.normalize(batch.embeddings, dim=1)
    return replace(batch, embeddings=rows, gallery=rows)


def representatives(batch: Batch, shift: int = 0) -> Int[Tensor, "b c"]:
    """One row of every class for every row: where the square table keeps the hardest pair of the two classes.

    An anchor and a representative of classes of two rows or more are never each other's, so that a loss that takes
    (i, k) and (k, i) for one pair finds as many pairs as there are anchors and other classes.
    """
    classes = batch.classes
    rank = torch.empty_like(classes.order)
    rank[classes.order] = torch.arange(len(rank), device=rank.device)
    own = classes.of_row[:, None]
    place = rank[:, None] - classes.start[own] + (own > torch.arange(len(classes.label), device=own.device)) + shift
    return classes.order[classes.start + place % classes.size]


def square_table(pairs: Pairs, batch: Batch, scale: Scale) -> Float[Tensor, "b b"]:
    """The distances of all rows: originals within a class, the hardest pair of two classes for rows of different ones.

    `pairs` may be mined: masks do not matter here.
    """
    b = len(batch.labels)
    everyone = torch.arange(b, device=batch.labels.device)[:, None]
    index, mask = batch.positives()
    square = squared_norms(batch.embeddings)[:, None]
    itself = square if scale.metric == "inner" else torch.ones_like(square)
    # Slots that are not used go to a column of their own.
    where = torch.cat([torch.where(mask, index, b), everyone], dim=1)
    table = torch.cat([pairs.negative[:, batch.classes.of_row], torch.zeros_like(square)], dim=1)
    table = table.scatter(1, where, torch.cat([pairs.positive, itself], dim=1))
    return scale(table[:, :b])


def alone(
    table: Float[Tensor, "b b"], negative_mask: Bool[Tensor, "b c"], batch: Batch, far: float
) -> Float[Tensor, "b b"]:
    """The table with one entry for each negative, the class's other entries being far away."""
    classes = batch.classes.of_row
    kept = classes[:, None] == classes
    rows, columns = negative_mask.nonzero(as_tuple=True)
    kept[rows, representatives(batch)[rows, columns]] = True
    return torch.where(kept, table, far)


def indices(pairs: Pairs, batch: Batch, form: Form, shift: int = 0) -> Indices:
    """The pairs (anchor, positive, anchor, negative) of the masks, or the triplets; a negative is a representative."""
    index, _ = batch.positives()
    negatives = representatives(batch, shift)
    if form == "triplets":
        a, p, c = (pairs.positive_mask[:, :, None] & pairs.negative_mask[:, None]).nonzero(as_tuple=True)
        return a, index[a, p], negatives[a, c]
    a, p = pairs.positive_mask.nonzero(as_tuple=True)
    other, c = pairs.negative_mask.nonzero(as_tuple=True)
    return a, index[a, p], other, negatives[other, c]
