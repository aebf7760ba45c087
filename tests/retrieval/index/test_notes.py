"""Notes of an index with values that they cannot have: a sentence that names the note, whatever asks for it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.retrieval.index import Item, create_index, open_index
from embedding_expansion.retrieval.index.notes import read_note


def changed(place: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(place / "index.sqlite")
    with contextlib.closing(database), database:
        assert database.execute(statement, values).rowcount == 1


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with create_index(tmp_path / "index", 3) as index:
        index.add([Item("a", "x", {"width": 3}), Item("b")], np.eye(3)[:2])
        index.set_note("model", {"digest": "d", "flip": False})
    return tmp_path / "index"


ODD = [None, True, 0, -1, 1.5, 10**30, "x", [], [1], {}, {"value": "x"}, float("nan")]


@pytest.mark.parametrize("name", ["dimensions", "asked", "precision"])
@pytest.mark.parametrize("value", ODD)
def test_an_index_is_not_opened_by_notes_that_it_cannot_have(place: Path, name: str, value: object) -> None:
    changed(place, "UPDATE notes SET value = ? WHERE name = ?", json.dumps(value), name)
    with pytest.raises(StoreError, match=f"the note '{name}' of .*index is .*; make the index again"):
        open_index(place)


@pytest.mark.parametrize("name", ["kind", "reason", "recall"])
@pytest.mark.parametrize("text", ["3", "[]", "{", "", "[" * 10**5, '{"value": "x", "k": 1, "queries": 1}'])
def test_what_an_index_says_of_its_search_is_checked_when_it_is_asked(place: Path, name: str, text: str) -> None:
    changed(place, "UPDATE notes SET value = ? WHERE name = ?", text, name)
    with open_index(place) as index, pytest.raises(StoreError, match=f"the note '{name}' of"):
        getattr(index, name)


def test_a_note_that_is_missing_is_null() -> None:
    assert read_note({}, "recall", "here") is None
    with pytest.raises(StoreError, match="the note 'dimensions' of here is 'None'"):
        read_note({}, "dimensions", "here")


def test_notes_of_users_must_be_json(place: Path) -> None:
    changed(place, "UPDATE notes SET value = '{' WHERE name = 'model'")
    with open_index(place) as index, pytest.raises(StoreError, match=r"the note 'model' of .* is not JSON"):
        index.notes  # noqa: B018


@pytest.mark.parametrize("value", ["'x'", "''", "NULL", "1.5", "x'00'", str(2**63 - 1)])
def test_a_generation_that_is_no_number_is_damage(place: Path, value: str) -> None:
    if value == "NULL":
        changed(place, "DELETE FROM notes WHERE name = 'generation'")
    else:
        changed(place, f"UPDATE notes SET value = {value} WHERE name = 'generation'")
    with (
        open_index(place) as index,
        pytest.raises(StoreError, match=r"the note 'generation' is not a whole number"),
    ):
        index.search(np.eye(3), 1)


@pytest.mark.parametrize("text", ["3", "[]", "{", '{"kind": "hnsw"}'])
def test_a_stamp_of_a_structure_that_is_none_is_said(place: Path, text: str) -> None:
    changed(place, "INSERT INTO notes VALUES ('structure', ?)", text)
    with open_index(place) as index, pytest.raises(StoreError, match="the note 'structure' of"):
        index.search(np.eye(3), 1)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("vector", b"x", "a vector does not have 12 bytes"),
        ("vector", "text", "a vector does not have 12 bytes"),
        ("path", "text", "item 1 has values of another type"),
        ("label", 3, "item 1 has values of another type"),
        ("metadata", "{", "the metadata of 'a' in the index are damaged"),
        ("metadata", "[]", "the metadata of 'a' in the index are damaged"),
    ],
)
def test_an_item_that_is_damaged_is_said(place: Path, column: str, value: object, said: str) -> None:
    changed(place, f"UPDATE items SET {column} = ? WHERE id = 1", value)
    with open_index(place) as index, pytest.raises(StoreError, match=said):
        index.search(np.eye(3), 2)


def test_dimensions_that_no_vector_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="dimensions is 10000000000; pass a whole number from 1 to 1,048,576"):
        create_index(tmp_path / "index", 10**10)
