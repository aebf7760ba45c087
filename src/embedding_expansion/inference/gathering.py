"""Reads all items of an index with their vectors, for commands that need them all at once. Does not import torch."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index import Index, Item
from embedding_expansion.retrieval.index.where import Where


def gathered(index: Index, where: Where | None = None) -> tuple[list[Item], Float[np.ndarray, "n d"]]:
    """Reads items, without thumbnails, and their unit vectors, sorted by id. The vectors take 4 n d bytes.

    Args:
        index: an open index.
        where: a filter of the items, as in `Index.search`.

    Raises:
        StoreError: there is no such item.
    """
    items: list[Item] = []
    rows = [np.zeros((0, index.dimensions), np.float32)]
    for batch, vectors in index.batches(where):
        items += batch
        rows.append(vectors)
    if not items:
        raise StoreError(f"{index.location} holds no images{' that match the filter' if where else ''}; add some")
    return items, np.concatenate(rows)
