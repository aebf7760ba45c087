"""Applies miners of pytorch-metric-learning to our tables, as masks of the pairs that they choose."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.chosen import ChosenPairs
from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pairs import Pairs, narrowed
from embedding_expansion.errors import InvalidInput, InvalidType

LIBRARY = "pytorch_metric_learning"


@validates
def is_foreign_miner(miner: object) -> bool:
    """Whether the object is a miner of pytorch-metric-learning, or an instance of a derived class."""
    return any(c.__module__.startswith(f"{LIBRARY}.miners") for c in type(miner).__mro__)


@validates
def mined(miner: Any, pairs: Pairs, batch: Batch, columns: Int[Tensor, " g"]) -> Pairs:
    """Restricts the table to the pairs that a miner of pytorch-metric-learning chooses.

    The miner is called with the plain batch, as miner(embeddings, labels), and with the reference if there is one. The
    rows are normalised unless the loss has normalize=False or comes from that library. The labels are the indices of
    the classes. See `narrowed` for the result; pairs that contradict the labels have no effect.

    Args:
        miner: an instance of a miner of the library.
        pairs: the table, plain or expanded.
        batch: the batch that the table is made from.
        columns: (g,), the column of `negative` for each row of the gallery.

    Raises:
        InvalidInput: if the batch is compared with proxies.
        InvalidType: if the miner returns neither triplets nor pairs.
    """
    if batch.proxies is not None:
        raise InvalidInput(
            f"{type(miner).__name__} chooses pairs of images, but the loss compares images with proxies; leave it out"
        )
    if batch.is_empty:
        return pairs
    # Indices of classes instead of labels, because miners may not distinguish very large labels.
    classes = batch.classes.of_row
    numbers, reference = classes, tuple[Tensor, ...]()
    if batch.has_reference:
        # Rows whose class is not in the reference have negatives only. They share the label -1, which it never has.
        numbers, reference = batch.classes.find(batch.labels), (batch.gallery, classes)
    with torch.no_grad():
        found = miner(batch.embeddings, numbers, *reference)
    if not isinstance(found, tuple) or len(found) not in (3, 4):
        raise InvalidType(
            f"{type(miner).__name__} returns a {type(found).__name__}; pass a miner that returns (anchors, positives, "
            "negatives) or (anchors, positives, anchors, negatives)"
        )
    return narrowed(pairs, batch, columns, ChosenPairs.of(found, batch.labels.device))
