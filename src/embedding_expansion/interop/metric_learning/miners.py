"""Miners of pytorch-metric-learning on our tables: what they choose of the batch, as masks."""

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
    """Whether this is a miner of pytorch-metric-learning, or of a class derived from one."""
    return any(c.__module__.startswith(f"{LIBRARY}.miners") for c in type(miner).__mro__)


@validates
def mined(miner: Any, pairs: Pairs, batch: Batch, columns: Int[Tensor, " g"]) -> Pairs:
    """The table with the pairs that a miner of pytorch-metric-learning chooses.

    It sees the plain batch, as miner(embeddings, labels), and with a reference that as well: the rows as the loss takes
    them, which are normalised unless the loss has normalize=False or is of that library, and numbers of classes in the
    place of labels. `narrowed` says what is left of the table; pairs that contradict the labels are left out.

    Args:
        miner: an instance of one of its miners.
        pairs: the table, plain or expanded.
        batch: what it was made from.
        columns: (g,), the column of the negatives that each row of the gallery belongs to.

    Raises:
        InvalidInput: if the batch is compared with proxies.
        InvalidType: if the miner gives neither triplets nor pairs.
    """
    if batch.proxies is not None:
        raise InvalidInput(
            f"{type(miner).__name__} chooses pairs of images, but the loss compares images with proxies; leave it out"
        )
    if batch.is_empty:
        return pairs
    # Numbers of classes and not labels, so that labels of any size are told apart.
    classes = batch.classes.of_row
    numbers, reference = classes, tuple[Tensor, ...]()
    if batch.has_reference:
        # Classes that the reference lacks have negatives only; they share the number -1, which no row of it has.
        numbers, reference = batch.classes.find(batch.labels), (batch.gallery, classes)
    with torch.no_grad():
        found = miner(batch.embeddings, numbers, *reference)
    if not isinstance(found, tuple) or len(found) not in (3, 4):
        raise InvalidType(
            f"{type(miner).__name__} gives a {type(found).__name__}; a miner gives (anchors, positives, negatives) or "
            "(anchors, positives, anchors, negatives)"
        )
    return narrowed(pairs, batch, columns, ChosenPairs.of(found, batch.labels.device))
