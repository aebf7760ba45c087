"""The steps of post-processing one after the other, from embeddings to lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from embedding_expansion.checks import as_whole
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.rerank.graph_diffusion import diffusion
from embedding_expansion.retrieval.rerank.inputs import unit_sides
from embedding_expansion.retrieval.rerank.query_expansion import alpha_query_expansion, database_augmentation
from embedding_expansion.retrieval.rerank.reciprocal import k_reciprocal
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.retrieval.rerank.whitening import PCAWhitening
from embedding_expansion.retrieval.search import nearest


@validates
def post_processed_lists(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    top: int,
    steps: Steps,
    *,
    exclude: Tensor | np.ndarray | Sequence[int] | None = None,
    training: Tensor | np.ndarray | None = None,
) -> Tensor:
    """Ranks the gallery for each query, after the steps that are asked for.

    They are taken in this order: whitening of both sides, augmentation of the gallery, expansion of the queries by the
    gallery as it is then, and k-reciprocal re-ranking or diffusion in place of the plain order by cosine.

    Args:
        queries: (q, d), a floating-point tensor or NumPy array of any norm.
        gallery: (g, d), on the same device.
        top: how long the lists are.
        steps: which steps, with their numbers.
        exclude: (q,), for each query the gallery row that it must not find because it is the query itself, -1 for none.
        training: (n, d), what a whitening is fitted on.

    Returns:
        Gallery indices (q, top), the best first, -1 behind the last, on the device of the queries.

    Raises:
        InvalidInput: what one of the steps refuses; whitening without `training`.
        InvalidType: embeddings that are no floating-point matrix, or a count that is no whole number.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> post_processed_lists(rows, rows, 2, Steps(qe=1), exclude=range(4)).tolist()
        [[1, 3], [0, 3], [3, 1], [2, 1]]

    Source: as the steps'. Differs from the source: nothing differs.
    """
    query_rows, gallery_rows = unit_sides(queries, gallery)
    top = as_whole(top, "top", least=1)
    if steps.whiten is not None:
        if training is None:
            raise InvalidInput("whitening needs rows to be fitted on; pass training, best of classes not measured on")
        dimensions = None if steps.whiten == "all" else steps.whiten
        whitening = PCAWhitening.fit(training, dimensions, shrinkage=steps.value("shrinkage"))
        query_rows, gallery_rows = whitening.apply(query_rows), whitening.apply(gallery_rows)
    if steps.dba is not None:
        gallery_rows = database_augmentation(gallery_rows, steps.dba, steps.value("alpha"))
    if steps.qe is not None:
        query_rows = alpha_query_expansion(query_rows, gallery_rows, steps.qe, steps.value("alpha"), exclude=exclude)
    if steps.reciprocal is not None:
        k2, weight = int(steps.value("k2")), steps.value("distance_weight")
        return k_reciprocal(
            query_rows, gallery_rows, top, k1=steps.reciprocal, k2=k2, distance_weight=weight, exclude=exclude
        )[1]
    if steps.diffusion is not None:
        return diffusion(query_rows, gallery_rows, top, k=steps.diffusion, exclude=exclude)[1]
    return nearest(query_rows, gallery_rows, top, exclude=exclude)[1]
