"""Makes and opens an index at a location: a folder, or a URL of PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from embedding_expansion.checks import as_whole, check_name, validates
from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.retrieval.index.index import Index
from embedding_expansion.retrieval.index.kinds import KINDS, AskedKind
from embedding_expansion.retrieval.index.notes import MOST_DIMENSIONS, PRECISIONS, Precision

SCHEMES = ("postgresql://", "postgres://")


@validates
def create_index(
    location: str | os.PathLike[str], dimensions: int, *, kind: AskedKind = "auto", precision: Precision = "float32"
) -> Index:
    """Makes an empty index.

    Args:
        location: a folder that is new or empty, or `postgresql://user:password@host/database?index=NAME`.
        dimensions: of the vectors.
        kind: "flat" (exact), "hnsw" (a graph, with the vectors in memory), "ivfpq" (compressed vectors in little
            memory, folders only) or "auto", which chooses by size; `Index.reason` is the reason for the choice.
        precision: "float32", or "float16" for half the space and similarities exact to about 3e-4.

    Raises:
        StoreError: the location already holds something, cannot be written or reached, or lacks what the kind needs.
        InvalidInput: dimensions below 1, or above 1,048,576.
        UnknownName: an unknown kind or precision.

    Example:
        >>> import tempfile, numpy as np
        >>> from embedding_expansion.retrieval.index import Item
        >>> with tempfile.TemporaryDirectory() as place, create_index(place, dimensions=2) as index:
        ...     changes = index.add([Item("a.jpg", "cat"), Item("b.jpg", "dog")], np.array([[1.0, 0.0], [0.0, 1.0]]))
        ...     [match.item.path for match in index.search(np.array([[3.0, 1.0]]), k=1)[0]]
        ['a.jpg']
    """
    dimensions = as_whole(dimensions, "dimensions", least=1, most=MOST_DIMENSIONS)
    check_name("kind of index", kind, KINDS)
    check_name("precision", precision, PRECISIONS)
    notes: dict[str, object] = {
        "generation": 0,
        "dimensions": dimensions,
        "asked": kind,
        "precision": precision,
        "kind": "flat",
        "reason": "flat: the index is empty",
        "recall": None,
    }
    url = _url(location)
    if url is not None:
        _need_psycopg()
        from embedding_expansion.retrieval.index.postgres import creation

        creation.create(url, notes)
    else:
        from embedding_expansion.retrieval.index.folder import database, structure

        if kind in ("hnsw", "ivfpq") and not structure.available():
            raise StoreError(f"{kind} needs faiss; pip install 'embedding-expansion[index]'")
        database.create(Path(location), notes)
    return open_index(location)


@validates
def is_index(location: str | os.PathLike[str]) -> bool:
    """Whether there is an index at a location, even a damaged one.

    Raises:
        StoreError: the server cannot be reached.
        InvalidInput: a URL that is not one of PostgreSQL.

    Example:
        >>> is_index("/no/such/folder")
        False
    """
    url = _url(location)
    if url is not None:
        _need_psycopg()
        from embedding_expansion.retrieval.index.postgres import creation

        return creation.exists(url)
    from embedding_expansion.retrieval.index.folder import database

    return database.exists(Path(location))


@validates
def open_index(location: str | os.PathLike[str]) -> Index:
    """Opens an index that `create_index` made.

    Raises:
        StoreError: there is no index, it is damaged, it was written by a newer version, or the server cannot be
            reached.
    """
    url = _url(location)
    if url is not None:
        _need_psycopg()
        from embedding_expansion.retrieval.index.postgres.store import PostgresStore

        return Index(PostgresStore(url))
    from embedding_expansion.retrieval.index.folder.store import FolderStore

    return Index(FolderStore(Path(location)))


def _need_psycopg() -> None:
    if importlib.util.find_spec("psycopg") is None:
        raise StoreError("an index in PostgreSQL needs psycopg; pip install 'embedding-expansion[postgres]'")


def _url(location: str | os.PathLike[str]) -> str | None:
    text = os.fspath(location)
    if text.startswith(SCHEMES):
        return text
    if "://" in text:
        scheme = text.partition("://")[0]
        raise InvalidInput(f"location is a URL of {scheme!r}; pass a folder, or a URL that starts with {SCHEMES[0]}")
    return None
