"""The retrieval measures of a set of images after post-processing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.retrieval.inputs import chosen_rows
from embedding_expansion.retrieval.lists import list_metrics
from embedding_expansion.retrieval.rerank.chain import post_processed_lists
from embedding_expansion.retrieval.rerank.steps import Steps


def measure_post_processed(
    vectors: Tensor, images: ImageSet, recall_at: tuple[int, ...], steps: Steps, training: Tensor | None
) -> dict[str, Any]:
    """The measures of `measure_retrieval` after the steps, and `steps`, what they were.

    Args:
        vectors: (n, d), the embeddings of the images.
        images: n images.
        recall_at: the K of Recall@K.
        steps: what is done.
        training: embeddings of training classes, to fit a whitening on; None where there is none.
    """
    queries, gallery = (
        chosen_rows(images.is_query, "is_query", len(images)),
        chosen_rows(images.is_gallery, "is_gallery", len(images)),
    )
    place = np.full(len(images), -1)
    place[gallery] = np.arange(len(gallery))
    own, labels = place[queries], images.labels
    top = min(len(gallery), max(*recall_at, int(np.bincount(labels[gallery]).max())))
    lists = post_processed_lists(vectors[queries], vectors[gallery], top, steps, exclude=own, training=training)
    measures = list_metrics(lists, labels[queries], labels[gallery], recall_at, exclude=own)
    given = {name: value for name, value in dataclasses.asdict(steps).items() if value is not None}
    return measures | {"steps": given}
