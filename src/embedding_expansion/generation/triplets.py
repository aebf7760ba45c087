"""The anchors, positives and negatives of the generators: one negative, or one of each other class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput
from embedding_expansion.generation.rows import two_by_two
from embedding_expansion.generation.tables import read, rows_of, similarity


class Triplets(NamedTuple):
    """Rows of a batch: q anchors with a positive and m negatives each.

    Attributes:
        anchor, positive: (q,).
        negative: (q, m).
        mask: (q, m), which negatives there are.
    """

    anchor: Int[Tensor, " q"]
    positive: Int[Tensor, " q"]
    negative: Int[Tensor, "q m"]
    mask: Bool[Tensor, "q m"]

    def value(self, loss: PairLoss, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of embeddings (q, d), (q, d) and (q, m, d) at these places."""
        anchor, positive, negative = (rows_of(loss, each) for each in (anchor, positive, negative))
        near = similarity(anchor, positive, loss.metric)
        return read(loss, near[:, None], similarity(anchor[:, None], negative, loss.metric), self.mask)

    def mean(self, values: Float[Tensor, "q m"]) -> Float[Tensor, ""]:
        """The mean over the negatives that there are."""
        return torch.where(self.mask, values, 0).sum() / self.mask.sum().clamp(min=1)


def triplets_for(loss: PairLoss, labels: Int[Tensor, " b"]) -> Triplets:
    """The images of a class two at a time as anchor and positive, with negatives as the loss reads them.

    A triplet loss gets one row of another class, drawn at random. N-pair gets one row of each other class of the batch:
    the first positive of that class.
    """
    pairs = two_by_two(labels)
    anchor, positive = pairs.unbind(dim=1)
    if type(loss).name == "n_pair":
        of_pair = labels[anchor]
        first = (of_pair[:, None] == of_pair).int().argmax(dim=1) == torch.arange(len(pairs), device=labels.device)
        negative = positive[first].expand(len(pairs), -1)
        return Triplets(anchor, positive, negative, labels[negative] != of_pair[:, None])
    others = labels[anchor][:, None] != labels
    draws = torch.rand(others.shape, device=labels.device).masked_fill(~others, -1)
    return Triplets(anchor, positive, draws.argmax(dim=1, keepdim=True), others.any(dim=1, keepdim=True))


def checked(loss: PairLoss) -> PairLoss:
    """Returns a triplet or N-pair loss.

    Raises:
        InvalidInput: it is another loss.
    """
    if getattr(type(loss), "name", "") not in ("triplet", "n_pair"):
        raise InvalidInput(f"loss is a {type(loss).__name__}; pass a TripletLoss or an NPairLoss")
    return loss
