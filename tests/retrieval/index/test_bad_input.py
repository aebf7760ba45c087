"""What cannot be used is refused with one sentence, the same on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, InvalidType, StoreError, UnknownName
from embedding_expansion.retrieval.index import Item, create_index, open_index
from retrieval.index.brute_force import items, vectors


def with_field(name: str, value: object) -> Item:
    """An item with a field of any kind; the tests check types at the door of Item, users' programs do not."""
    item = Item("a")
    object.__setattr__(item, name, value)
    return item


VECTORS = [
    (np.ones((2, 7)), InvalidInput, r"vectors has the shape \(2, 7\) but the index holds vectors of 8 dimensions"),
    (np.ones(8), InvalidInput, r"vectors has the shape \(8,\)"),
    (np.ones((2, 8), int), InvalidType, "vectors has the type int64; pass floating-point numbers"),
    (np.zeros((2, 8)), InvalidInput, "row 0 of vectors has only zeros"),
    (np.full((2, 8), np.inf), InvalidInput, "row 0 of vectors has NaN or infinite entries"),
    (np.full((2, 8), np.nan), InvalidInput, "row 0 of vectors has NaN or infinite entries"),
    (np.ones((3, 8)), InvalidInput, "items has 2 entries but vectors has 3 rows"),
]
ITEMS: list[tuple[Any, type[Exception], str]] = [
    ("a.jpg", InvalidType, r"items\[0\] is a str; pass an Item"),
    (with_field("path", Path("a")), InvalidType, r"the path of items\[0\] is a PosixPath; pass a str"),  # type: ignore[arg-type]
    (Item("\ud800"), InvalidInput, "which cannot be encoded; pass a text"),
    (with_field("label", 3), InvalidType, "the label of 'a' is a int; pass a str"),
    (with_field("metadata", [1]), InvalidType, "the metadata of 'a' is a list; pass a dict"),
    (with_field("metadata", {1: 2}), InvalidType, "has the key 1; pass keys that are texts"),
    (with_field("metadata", {"b": float("nan")}), InvalidInput, r"cannot be stored as JSON|JSON cannot represent"),
    (with_field("metadata", {"b": [float("inf")]}), InvalidInput, "cannot be stored as JSON"),
    (with_field("metadata", {"b": object()}), InvalidInput, "cannot be stored as JSON"),
    (with_field("thumbnail", "png"), InvalidType, "the thumbnail of 'a' is a str"),
]


def test_items_and_vectors_that_cannot_be_used_are_refused(place: str) -> None:
    with create_index(place, 8) as index:
        for matrix, error, sentence in VECTORS:
            with pytest.raises(error, match=sentence):
                index.add(items(2), matrix)
        for item, error, sentence in ITEMS:
            with pytest.raises(error, match=sentence):
                index.add([item], vectors(1))
        assert index.count() == 0


def test_calls_that_mean_nothing_are_refused(place: str, tmp_path: Path) -> None:
    with create_index(place, 8) as index:
        index.add(items(2), vectors(2))
        for call, sentence in [
            (lambda: index.search(vectors(1), 0), "k is 0; pass a whole number of at least 1"),
            (lambda: index.search(vectors(1), 1.5), "k is 1.5; pass a whole number"),  # type: ignore[arg-type]
            (lambda: index.search(vectors(1, 3), 1), "vectors of 8 dimensions"),
            (lambda: index.remove(), "remove takes either where or paths"),
            (lambda: index.remove({}), "which would remove all items"),
            (lambda: index.remove(paths="a"), "paths is a str; pass a list"),
            (lambda: index.get(77), "has no item 77"),
            *((lambda id=id: index.get(id), f"has no item {id}") for id in (0, -1, 3, 2**63 - 1, 2**63)),
            (lambda: index.vectors([1, 77]), "has no item 77"),
            (lambda: index.set_note("kind", 1), "name is 'kind'"),
            (lambda: index.set_note("a", {1, 2}), "cannot be stored as JSON"),
            (lambda: index.loading("").__enter__(), "key is ''"),
            (lambda: index.files.put(tmp_path, "../a"), "pass a file's name without folders"),
            (lambda: list(index.batches(size=0)), "size is 0"),
        ]:
            with pytest.raises(EmbeddingExpansionError, match=sentence):
                call()
        assert index.count() == 2


def test_an_index_is_not_made_twice_and_not_opened_where_there_is_none(place: str) -> None:
    with pytest.raises(StoreError, match="is not an index"):
        open_index(place)
    create_index(place, 8).close()
    with pytest.raises(StoreError, match="already holds an index"):
        create_index(place, 8)


def test_options_that_there_are_not_are_refused(place: str) -> None:
    with pytest.raises(UnknownName, match="no kind of index named 'hsnw'; did you mean 'hnsw'"):
        create_index(place, 8, kind="hsnw")
    with pytest.raises(UnknownName, match="no precision named 'float8'"):
        create_index(place, 8, precision="float8")
    with pytest.raises(InvalidInput, match="dimensions is 0"):
        create_index(place, 0)


def test_a_location_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidInput, match="location is a URL of 'mysql'; pass a folder, or a URL that starts with"):
        open_index("mysql://user:secret@host/db")
