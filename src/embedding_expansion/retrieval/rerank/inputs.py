"""What post-processing is handed, brought into one form."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.retrieval.inputs import arithmetic_dtype, embedding_rows, unit_rows


@validates
def unit_sides(
    queries: Tensor | np.ndarray, gallery: Tensor | np.ndarray
) -> tuple[Float[Tensor, "q d"], Float[Tensor, "g d"]]:
    """Both sides L2-normalised, in one type."""
    query_rows, gallery_rows = (
        unit_rows(embedding_rows(queries, "queries")),
        unit_rows(embedding_rows(gallery, "gallery")),
    )
    dtype = arithmetic_dtype(query_rows.dtype, gallery_rows.dtype)
    return query_rows.to(dtype), gallery_rows.to(dtype)
