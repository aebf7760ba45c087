"""Items by the ids that clients send."""

from __future__ import annotations

from collections.abc import Iterable

from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput
from embedding_expansion.retrieval.index import Index, Item


class NoItem(EmbeddingExpansionError):
    """No item has this id. The sentence does not say where the index is, unlike that of the index."""


def items_of(index: Index, ids: Iterable[int]) -> list[Item]:
    """The items with these ids and their thumbnails, each once.

    Raises:
        NoItem: no item has one of the ids.
    """
    return [_item(index, id) for id in dict.fromkeys(ids)]


def _item(index: Index, id: int) -> Item:
    try:
        return index.get(id)
    except InvalidInput:
        raise NoItem(f"there is no item {id}; it may have been removed, so search again") from None
