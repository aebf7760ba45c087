"""All that an index holds, for comparisons."""

from __future__ import annotations

from typing import Any

from embedding_expansion.retrieval.index import open_index


def contents(place: str) -> dict[str, tuple[Any, ...]]:
    """Path -> label, metadata, thumbnail and the bytes of the vector."""
    with open_index(place) as index:
        return {
            item.path: (item.label, item.metadata, item.thumbnail, row.tobytes())
            for items, rows in index.batches(thumbnails=True)
            for item, row in zip(items, rows, strict=True)
        }
