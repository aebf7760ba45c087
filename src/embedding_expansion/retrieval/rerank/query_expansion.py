"""Query expansion and database augmentation: each row becomes a weighted mean of itself and its nearest rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from embedding_expansion.checks import as_number, as_whole
from embedding_expansion.core.inputs import validates
from embedding_expansion.retrieval.inputs import embedding_rows, unit_rows
from embedding_expansion.retrieval.search import TABLE_BYTES, nearest, unit_queries_and_gallery


@torch.no_grad()
@validates
def alpha_query_expansion(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    k: int = 10,
    alpha: float = 3.0,
    *,
    exclude: Tensor | np.ndarray | Sequence[int] | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Adds to each query its k nearest gallery rows, weighted by their similarity.

    With all rows L2-normalised and s_j = max(cos(q, x_j), 0), the expanded query is

        q' = normalise(q + sum over the k nearest x_j of s_j^alpha x_j),  0^0 = 1.

    alpha = 0 is average query expansion. Use the returned rows to search the gallery, which does not change.

    Args:
        queries: (q, d), a floating-point tensor or NumPy array of any norm; a row of zeros has cosine 0 with all rows.
        gallery: (g, d), on the same device.
        k: the number of neighbours; all candidates if there are fewer.
        alpha: the exponent, any number of 0 or more.
        exclude: (q,), for each query the gallery row that it must not find, -1 for none, as in `nearest`.
        chunk: queries compared at a time, as in `nearest`.

    Returns:
        (q, d), L2-normalised, float32 or float64, on the device of the queries. A row is zero if the sum is zero, which
        requires opposite rows and alpha = 0, or a query of zeros.

    Raises:
        InvalidInput: an empty or non-finite matrix, queries and gallery that cannot be compared, k below 1, alpha below
            0 or not finite, or an index in `exclude` outside the gallery.
        InvalidType: embeddings that are not a floating-point matrix, or a number of the wrong type.

    Example:
        >>> gallery = np.array([[0.8, 0.6], [0.0, -1.0]])
        >>> alpha_query_expansion(np.array([[1.0, 0.0]]), gallery, k=1, alpha=1).numpy().round(3).tolist()
        [[0.96, 0.281]]

    Source: F. Radenovic, G. Tolias, O. Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019,
        section 4.3 (alpha); O. Chum et al., "Total Recall: Automatic Query Expansion with a Generative Feature Model
        for Object Retrieval", ICCV 2007 (average).
    Differs from the source: negative cosines count as 0, so that no exponent gives NaN. Average query expansion uses
        all k nearest rows, without the spatial verification of 2007.
    """
    query_rows, gallery_rows = unit_queries_and_gallery(queries, gallery)
    k, alpha = min(as_whole(k, "k", least=1), len(gallery_rows)), as_number(alpha, "alpha", 0)
    similarities, indices = nearest(query_rows, gallery_rows, k, exclude=exclude, chunk=chunk)
    weights = similarities.clamp(0, 1).pow(alpha).masked_fill_(indices < 0, 0)
    size = max(1, TABLE_BYTES // (k * gallery_rows.shape[1] * weights.dtype.itemsize))
    sums = []
    with torch.autocast(query_rows.device.type, enabled=False):
        for start in range(0, len(query_rows), size):
            block = slice(start, start + size)
            neighbours = gallery_rows[indices[block].clamp(min=0)]
            sums.append(query_rows[block] + torch.einsum("qk,qkd->qd", weights[block], neighbours))
    return unit_rows(torch.cat(sums))


@validates
def database_augmentation(
    gallery: Tensor | np.ndarray, k: int = 10, alpha: float = 3.0, *, chunk: int | None = None
) -> Tensor:
    """Expands every gallery row by its k nearest other rows, in the way of `alpha_query_expansion`.

    Args:
        gallery: (g, d), a floating-point tensor or NumPy array of any norm.
        k: the number of neighbours, without the row itself.
        alpha: the exponent, 0 or more.
        chunk: rows compared at a time, as in `nearest`.

    Returns:
        (g, d), L2-normalised, float32 or float64, on the device of the gallery. A gallery of one row is only
        normalised.

    Raises:
        InvalidInput: an empty or non-finite matrix, k below 1, alpha below 0 or not finite.
        InvalidType: embeddings that are not a floating-point matrix, or a number of the wrong type.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
        >>> database_augmentation(rows, k=1, alpha=1)[:1].numpy().round(3).tolist()
        [[0.96, 0.281]]

    Source: R. Arandjelovic and A. Zisserman, "Three Things Everyone Should Know to Improve Object Retrieval", CVPR
        2012, section 4; A. Gordo et al., "End-to-end Learning of Deep Visual Representations for Image Retrieval",
        IJCV 2017, section 5.2.
    Differs from the source: here a neighbour is weighted by the cosine to the power alpha, as for the queries. The
        paper of 2012 adds bags of words that verified matches connect; the paper of 2017 weights a neighbour by its
        rank.
    """
    rows = embedding_rows(gallery, "gallery")
    return alpha_query_expansion(rows, rows, k, alpha, exclude=range(len(rows)), chunk=chunk)
