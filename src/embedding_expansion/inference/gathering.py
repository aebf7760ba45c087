"""All items of an index with their vectors, for what looks at all of them at once. Needs no torch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index import Index, Item
from embedding_expansion.retrieval.index.where import Where


def gathered(index: Index, where: Where | None = None) -> tuple[list[Item], Float[np.ndarray, "n d"]]:
    """The items, without thumbnails, and their unit vectors, by ascending id: n d numbers of 4 bytes in memory.

    Args:
        index: which is open.
        where: which items, as in `Index.search`.

    Raises:
        StoreError: there is none.
    """
    items: list[Item] = []
    rows = [np.zeros((0, index.dimensions), np.float32)]
    for batch, vectors in index.batches(where):
        items += batch
        rows.append(vectors)
    if not items:
        raise StoreError(f"{index.location} holds no images{' that fulfil the condition' if where else ''}; add some")
    return items, np.concatenate(rows)
