"""Stores and searches images and their vectors, in a folder or, for several machines, in PostgreSQL."""

from embedding_expansion.retrieval.index.index import Index, Loading
from embedding_expansion.retrieval.index.items import Changes, Item, Match
from embedding_expansion.retrieval.index.kinds import Recall
from embedding_expansion.retrieval.index.opening import create_index, is_index, open_index

__all__ = ["Changes", "Index", "Item", "Loading", "Match", "Recall", "create_index", "is_index", "open_index"]
