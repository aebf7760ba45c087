"""Which rows search which: leave-one-out within one set, parts of it chosen by masks, or a separate gallery."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.inputs import (
    UnitRows,
    arithmetic_dtype,
    chosen_rows,
    embedding_rows,
    label_values,
    numbered,
)

logger = logging.getLogger(__name__)

Rows = Tensor | np.ndarray
Labels = Tensor | np.ndarray | Sequence[int]
Mask = Tensor | np.ndarray | Sequence[bool] | None


@dataclass(frozen=True)
class RetrievalTask:
    """Queries and gallery of a retrieval task, with their classes.

    Attributes:
        queries: (q, d), of unit norm.
        gallery: (g, d), of unit norm, on the same device.
        labels: (c,), the labels that occur, in ascending order.
        query_classes: (q,), the index of each query's label in `labels`.
        gallery_classes: (g,), the index of each gallery row's label in `labels`.
        own: (q,), the gallery row that is the query itself, -1 if there is none; a query never finds that row.
        matches: (q,), how many gallery rows of its class each query can find.
    """

    queries: UnitRows
    gallery: UnitRows
    labels: np.ndarray
    query_classes: Int[Tensor, " q"]
    gallery_classes: Int[Tensor, " g"]
    own: Int[Tensor, " q"]
    matches: Int[Tensor, " q"]


class SearchSides(TypedDict, total=False):
    """Who searches what; `retrieval_task` says what each means."""

    is_query: Mask
    is_gallery: Mask
    gallery: Rows | None
    gallery_labels: Labels | None


@validates
def retrieval_task(
    embeddings: Rows,
    labels: Labels,
    *,
    is_query: Mask = None,
    is_gallery: Mask = None,
    gallery: Rows | None = None,
    gallery_labels: Labels | None = None,
) -> RetrievalTask:
    """Checks embeddings and labels and makes a retrieval task of them.

    Args:
        embeddings: (n, d), of any norm.
        labels: n whole numbers.
        is_query: n booleans, the rows to use as queries; None for all.
        is_gallery: n booleans, the rows to use as gallery; None for all.
        gallery: (g, d), a separate gallery that contains none of the queries.
        gallery_labels: g whole numbers.

    Raises:
        InvalidInput: sizes or devices that do not fit, a gallery without labels, or both `gallery` and `is_gallery`.
        InvalidType: an argument of the wrong type.
    """
    rows = embedding_rows(embeddings)
    n = len(rows)
    queries = chosen_rows(is_query, "is_query", n)
    if (gallery is None) != (gallery_labels is None):
        raise InvalidInput("only one of gallery and gallery_labels is given; pass both, or neither")
    if gallery is None or gallery_labels is None:
        chosen = chosen_rows(is_gallery, "is_gallery", n)
        known, classes = numbered(label_values(labels, n))
        gallery_row = np.full(n, -1)
        gallery_row[chosen] = np.arange(len(chosen))
        unit = UnitRows(rows)
        searched, query_classes, gallery_classes = unit.only(_indices(chosen, rows)), classes[queries], classes[chosen]
        return _task(
            unit.only(_indices(queries, rows)), searched, known, query_classes, gallery_classes, gallery_row[queries]
        )
    if is_gallery is not None:
        raise InvalidInput("is_gallery and gallery are both given; pass one of them")
    other = embedding_rows(gallery, "gallery")
    if other.shape[1] != rows.shape[1] or other.device != rows.device:
        raise InvalidInput(
            f"embeddings has {rows.shape[1]} columns on {rows.device} but gallery has {other.shape[1]} on "
            f"{other.device}; embed both with the same model, on the same device"
        )
    known, classes, gallery_classes = numbered(
        label_values(labels, n), label_values(gallery_labels, len(other), "gallery_labels", "gallery")
    )
    query_classes, own = classes[queries], np.full(len(queries), -1)
    return _task(
        UnitRows(rows).only(_indices(queries, rows)), UnitRows(other), known, query_classes, gallery_classes, own
    )


def common_dtype(task: RetrievalTask) -> torch.dtype:
    """The type in which the similarities of a task are computed."""
    return arithmetic_dtype(task.queries.dtype, task.gallery.dtype)


def refuse_nothing_to_find(task: RetrievalTask) -> None:
    """Raises an error if no query has a match, and logs a warning if some have none."""
    lone, q = int((task.matches == 0).sum()), len(task.matches)
    if lone == q:
        raise InvalidInput(
            f"none of the {lone} queries has another row of its class in the gallery of {len(task.gallery)} rows, so "
            "there is nothing to find; check the labels and the gallery"
        )
    if lone > 0:
        logger.warning(
            "%d of %d queries have no other row of their class in the gallery: they count as misses in Recall@K and "
            "are left out of the other measures",
            lone,
            q,
        )


def _indices(chosen: Int[np.ndarray, " m"], rows: Tensor) -> Int[Tensor, " m"]:
    return torch.from_numpy(chosen).to(rows.device)


def _task(
    queries: UnitRows,
    gallery: UnitRows,
    labels: np.ndarray,
    query_classes: Int[np.ndarray, " q"],
    gallery_classes: Int[np.ndarray, " g"],
    own: Int[np.ndarray, " q"],
) -> RetrievalTask:
    matches = np.bincount(gallery_classes, minlength=len(labels))[query_classes] - (own >= 0)
    parts = (query_classes, gallery_classes, own, matches)
    return RetrievalTask(queries, gallery, labels, *(torch.from_numpy(part).to(queries.device) for part in parts))
