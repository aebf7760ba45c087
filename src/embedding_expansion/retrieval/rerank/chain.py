"""Applies the steps of post-processing in order, from embeddings to lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from embedding_expansion.checks import as_whole
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.rerank.graph_diffusion import diffusion
from embedding_expansion.retrieval.rerank.query_expansion import alpha_query_expansion, database_augmentation
from embedding_expansion.retrieval.rerank.reciprocal import k_reciprocal
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.retrieval.rerank.whitening import PCAWhitening
from embedding_expansion.retrieval.search import nearest, unit_queries_and_gallery


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
    """Ranks the gallery for each query after some steps of post-processing.

    The order of the steps is: whitening of queries and gallery, augmentation of the gallery, expansion of the queries
    by the augmented gallery, and k-reciprocal re-ranking or diffusion. Without the last two, the gallery is ranked by
    cosine.

    Args:
        queries: (q, d), a floating-point tensor or NumPy array of any norm.
        gallery: (g, d), on the same device.
        top: the length of the lists.
        steps: the steps to apply, with their parameters.
        exclude: (q,), for each query the gallery row that is the query itself and must not be found, -1 for none.
        training: (n, d), the rows to fit a whitening on.

    Returns:
        Gallery indices (q, top), the best first, with -1 after the last, on the device of the queries.

    Raises:
        InvalidInput: a step refuses its input, or whitening without `training`.
        InvalidType: embeddings that are not a floating-point matrix, or a count that is not a whole number.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> post_processed_lists(rows, rows, 2, Steps(qe=1), exclude=range(4)).tolist()
        [[1, 3], [0, 3], [3, 1], [2, 1]]

    Source: as for the steps.
    Differs from the source: as for the steps.
    """
    query_rows, gallery_rows = unit_queries_and_gallery(queries, gallery)
    top = as_whole(top, "top", least=1)
    if steps.whiten is not None:
        if training is None:
            raise InvalidInput(
                "whitening needs rows to fit on, but training is None; pass training, best of other classes than those "
                "measured"
            )
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
