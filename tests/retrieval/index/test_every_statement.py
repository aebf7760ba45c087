"""Every statement of SQL that an index sends, where few, no and all rows match, against comparing with every item.

Statements are told apart by the line that sends them. A line of the source that sends one and was not reached fails the
last test.
"""

from __future__ import annotations

import ast
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.retrieval import index as package
from embedding_expansion.retrieval.index import Index, Item, create_index, is_index, open_index
from embedding_expansion.retrieval.index.folder import searching as folder_searching
from embedding_expansion.retrieval.index.folder import statements as folder_statements
from embedding_expansion.retrieval.index.folder import store as folder_store
from embedding_expansion.retrieval.index.kinds import choose
from embedding_expansion.retrieval.index.postgres import statements as postgres_statements
from embedding_expansion.retrieval.index.postgres import store as postgres_store
from retrieval.index.brute_force import Expected, fulfils, same, vectors

SOURCES = {name: Path(package.__file__).parent / name for name in ("folder", "postgres")}
SENDING = {"execute", "executemany", "executescript", "copy"}
#: Of 150 items: a label each for most, few and one of them, a number, and a path in one of two folders.
ITEMS = [
    Item(
        f"{'ab'[i % 2]}/{i}",
        "rare" if i in (3, 77) else None if i % 10 == 9 else "common",
        {"n": i % 3, "one": True} if i == 40 else {"n": i % 3},
    )
    for i in range(150)
]
WHERE: dict[str, dict[str, Any] | None] = {
    "nothing asked": None,
    "label, most": {"label": "common"},
    "label, few": {"label": "rare"},
    "label, none": {"label": "no such"},
    "no label": {"label": None},
    "labels or none": {"label": ["rare", None]},
    "path, one": {"path": "a/40"},
    "paths, none": {"path": ["x", "y"]},
    "no path at all": {"path": []},
    "prefix, half": {"path_prefix": "a/"},
    "prefix, none": {"path_prefix": "c"},
    "prefix, all": {"path_prefix": ""},
    "prefix without an end": {"path_prefix": "\udcff"},
    "part of a path": {"path_contains": "B/1"},
    "part of a label": {"label_contains": "OMM"},
    "metadata, a third": {"metadata": {"n": 1}},
    "metadata, one": {"metadata": {"one": True}},
    "metadata, none": {"metadata": {"n": 7}},
    "metadata, no value": {"metadata": {"one": None}},
    "metadata, a value or none": {"metadata": {"one": [True, None], "n": [0, 2]}},
    "all together, none": {"label": "rare", "path_prefix": "a/", "metadata": {"n": 0}},
    "all together, one": {"label": ["rare"], "path": "b/3", "path_prefix": "b/", "metadata": {"n": 0, "one": None}},
}
#: Backend, kind that is asked for and kind that it has then.
KINDS = [("folder", "flat"), ("folder", "hnsw"), ("folder", "ivfpq"), ("postgres", "flat"), ("postgres", "hnsw")]

sent: set[tuple[str, int]] = set()


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enters the line of every statement, whichever of the two libraries sends it."""

    def note(*_: object) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.parent in SOURCES.values():
                sent.add((str(file), frame.f_lineno))
                return
            frame = frame.f_back  # type: ignore[assignment]

    connect = sqlite3.connect

    def connect_and_trace(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(note)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_and_trace)
    for name in ("execute", "executemany", "copy"):
        original = getattr(psycopg.Cursor, name)

        def noting(*given: Any, _original: Any = original, **options: Any) -> Any:
            note()
            return _original(*given, **options)

        monkeypatch.setattr(psycopg.Cursor, name, noting)


@pytest.fixture(params=KINDS, ids="-".join)
def empty(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An empty index of each kind, which is given the structure of its kind however few rows it has."""
    backend, kind = request.param
    monkeypatch.setattr("embedding_expansion.retrieval.index.kinds.IVFPQ_ROWS", 256)
    monkeypatch.setattr("embedding_expansion.retrieval.index.folder.structure.lists", lambda n: 1)
    monkeypatch.setattr(folder_searching, "FEW_ROWS", 0)  # so that a filter goes into the structure as well
    place = str(tmp_path / "index") if backend == "folder" else str(request.getfixturevalue("postgres_place"))
    assert not is_index(place)
    with create_index(place, 8, kind=kind) as index:
        yield index


@pytest.fixture
def full(empty: Index) -> tuple[Index, Expected]:
    expected = Expected()
    rows = vectors(len(ITEMS) if empty.asked != "ivfpq" else 300)
    more = [Item(f"z/{i}", "common", {"n": 0}) for i in range(len(rows) - len(ITEMS))]
    expected.add(empty, ITEMS + more, rows)
    assert empty.kind == empty.asked
    return empty, expected


@pytest.mark.parametrize("k", [1, 3, 100_000, 10**30])
def test_a_search_finds_what_there_is_whatever_is_asked(full: tuple[Index, Expected], k: int) -> None:
    index, expected = full
    queries = vectors(2, seed=1)
    for name, where in WHERE.items():
        there = sum(fulfils(item, where or {}) for _, item, _ in expected.items.values())
        assert index.count(where) == there, name
        for exact in (True, False):
            for query, found in zip(queries, index.search(queries, k, where, exact=exact), strict=True):
                assert len(found) == min(k, there), (name, exact)
                assert all(fulfils(match.item, where or {}) for match in found), name
                if exact or index.kind == "flat" or k >= there:
                    same(found, expected.search(query, k, where))


def test_an_empty_index_is_asked_everything(empty: Index) -> None:
    for where in WHERE.values():
        for exact in (True, False):
            assert empty.search(vectors(2), 3, where, exact=exact) == [[], []]
        assert empty.count(where) == 0
        assert list(empty.batches(where)) == []
    assert empty.remove({"label": "common"}) == 0


def test_all_items_can_be_read_changed_and_removed(full: tuple[Index, Expected], tmp_path: Path) -> None:
    index, expected = full
    for where in WHERE.values():
        wanted = sorted(item.path for _, item, _ in expected.items.values() if fulfils(item, where or {}))
        assert sorted(item.path for found, _ in index.batches(where, size=40) for item in found) == wanted
    ids = [id for id, _, _ in expected.items.values()]
    assert index.vectors(ids[:5]).shape == (5, 8)
    assert index.get(ids[7]).path == list(expected.items)[7]
    # Replaced rows, which the structure does not cover.
    expected.add(index, [Item("a/0", "rare"), Item("new", None, {"n": 1})], vectors(2, seed=5))
    query = vectors(1, seed=6)
    for where in (None, {"label": "rare"}, {"metadata": {"n": 1}}):
        found = index.search(query, 1000, where)[0]
        same(found, expected.search(query[0], 1000, where))
    with index.loading("photos") as load:
        load.add([Item("later")], vectors(1))
        assert index.unfinished() == {"photos": 1}
    with index.loading("others") as load:
        assert load.staged == set()
    assert index.unfinished() == {}
    index.discard("none of this name")
    file = tmp_path / "weights"
    file.write_bytes(b"1234")
    index.files.put(file)
    assert index.files.sizes() == {"weights": 4}
    index.files.fetch("weights", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"1234"
    for where in ({"label": "no such"}, {"label": "rare"}, {"metadata": {"n": [1, None]}}, {"path_prefix": ""}):
        there = index.count(where)
        assert index.remove(where) == there
        assert index.count(where) == 0
    assert index.search(query, 3) == [[]]
    assert is_index(index.location)


def test_a_structure_that_no_longer_pays_is_dropped(
    tmp_path: Path, postgres_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_store, "choose", lambda asked, n, d: choose(asked, n, d, 100 * 8))
    monkeypatch.setattr(postgres_store, "FLAT_NUMBERS", 100 * 8)
    for place in (str(tmp_path / "index"), postgres_place):
        with create_index(place, 8) as index:
            index.add(ITEMS, vectors(len(ITEMS)))
            assert index.kind == "hnsw"
            index.remove({"label": "common"})
            assert (index.kind, index.recall) == ("flat", None)
            assert len(index.search(vectors(1), 100)[0]) == index.count()


def test_what_fails_within_a_transaction_changes_nothing(
    full: tuple[Index, Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, expected = full
    module = folder_statements if "postgres" not in index.location else postgres_statements

    def publish_and_fail(*given: Any, _publish: Any = module.publish) -> None:
        _publish(*given)
        raise ZeroDivisionError

    monkeypatch.setattr(module, "publish", publish_and_fail)
    with pytest.raises(ZeroDivisionError):
        index.add([Item("new"), Item("a/0", "changed")], vectors(2))
    assert index.unfinished() == {}
    assert index.count() == len(expected.items)
    assert index.count({"path": "new"}) + index.count({"label": "changed"}) == 0


def test_ids_beyond_what_a_database_counts_are_no_items(full: tuple[Index, Expected]) -> None:
    index, _ = full
    for id in (0, -1, 2**31, 2**63 - 1, 2**63, 10**30, -(10**30)):
        for call in (index.get, lambda id: index.vectors([1, id])):
            with pytest.raises(InvalidInput, match=f"has no item {id}; search again"):
                call(id)


def test_every_statement_of_the_source_was_sent(server: str, postgres_place: str) -> None:
    """Counts what all tests of this file have sent; the extension's own go to a database that does not have it yet."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS no_vectors")
        admin.execute("CREATE DATABASE no_vectors")
    fresh = server.replace("/postgres?", "/no_vectors?")
    with pytest.raises(StoreError, match="has no pgvector"):
        open_index(fresh)
    create_index(fresh, 8).close()
    missing = []
    for file in sorted(file for folder in SOURCES.values() for file in folder.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SENDING:
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if not any((str(file), line) in sent for line in lines):
                    missing.append(f"{file.name}:{node.lineno}")
    assert missing == []
