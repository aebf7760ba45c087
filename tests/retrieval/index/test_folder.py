"""What only an index in a folder has: faiss structures that are derived, and files that may be damaged."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index import Index, Item, create_index, open_index
from embedding_expansion.retrieval.index.folder import searching, store
from embedding_expansion.retrieval.index.kinds import choose
from retrieval.index.brute_force import Expected, items, same, vectors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def graph(folder: Path) -> Index:
    index = create_index(folder, 8, kind="hnsw")
    index.add(items(600), vectors(600))
    return index


def structures(folder: Path) -> list[Path]:
    return sorted(folder.glob("structure*"))


def agreement(index: Index) -> float:
    """The share of the true ten neighbours that a search finds."""
    queries = vectors(40, seed=7)
    pairs = zip(index.search(queries, 10), index.search(queries, 10, exact=True), strict=True)
    return float(np.mean([len({m.item.id for m in a} & {m.item.id for m in b}) / 10 for a, b in pairs]))


def test_a_graph_is_measured_when_it_is_built(graph: Index, folder: Path) -> None:
    assert graph.kind == "hnsw"
    assert graph.recall is not None
    assert graph.recall.queries == 100
    assert graph.recall.value > 0.95
    assert agreement(graph) > 0.95
    assert len(structures(folder)) == 1
    graph.close()


def test_codes_find_what_they_were_measured_to_find(folder: Path) -> None:
    n = 10_000
    with create_index(folder, 8, kind="ivfpq") as index:
        index.add(items(100), vectors(100))
        assert index.reason == "flat: ivfpq learns its codes from at least 9,984 vectors, there are 100"
        index.add(items(n), vectors(n))
        assert (index.kind, index.reason) == ("ivfpq", "ivfpq: as asked for")
        assert index.recall is not None
        assert 0.5 < index.recall.value <= 1
        assert agreement(index) == pytest.approx(index.recall.value, abs=0.15)
        expected = Expected()
        expected.items = {
            str(item.id): (item.id or 0, item, vector)
            for found, rows in index.batches()
            for item, vector in zip(found, rows, strict=True)
        }
        query = vectors(1, seed=3)
        same(index.search(query, 5, exact=True)[0], expected.search(query[0], 5))


def test_what_was_changed_since_the_graph_was_built_is_found_at_once(graph: Index, folder: Path) -> None:
    before = structures(folder)
    query = vectors(1, seed=11)
    nearest = graph.search(query, 3)[0]
    graph.remove(paths=[nearest[0].item.path])
    graph.add([Item(nearest[1].item.path)], -query)  # moved far away
    graph.add([Item("new")], query)
    assert structures(folder) == before  # too little has changed for it to pay
    with open_index(folder) as other:
        for index in (graph, other):
            found = index.search(query, 2)[0]
            assert [match.item.path for match in found] == ["new", nearest[2].item.path]
            assert len(index.search(query, 600)[0]) == 600
            assert nearest[1].item.path in {match.item.path for match in index.search(-query, 1)[0]}
    graph.close()


def test_the_graph_is_built_again_once_much_has_changed(graph: Index, folder: Path) -> None:
    before = structures(folder)
    graph.remove({"metadata": {"n": 1}})
    assert structures(folder) != before
    assert len(structures(folder)) == 1
    assert agreement(graph) > 0.95
    graph.close()


def test_a_filter_goes_into_the_graph_where_it_leaves_many(graph: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "FEW_ROWS", 0)
    monkeypatch.setattr(searching, "FEW_SHARE", 0)
    graph.remove(paths=[f"a/{i}.jpg" for i in range(0, 60, 2)])
    graph.add(items(10, start=600), vectors(10, seed=4))
    for where in ({"label": "class 1"}, {"path_prefix": "b/"}, {"label": None, "metadata": {"odd": True}}):
        for query in vectors(5, seed=8):
            found = [m.item.id for m in graph.search(query[None], 20, where)[0]]
            true = [m.item.id for m in graph.search(query[None], 20, where, exact=True)[0]]
            assert len(set(found)) == 20
            assert len(set(found) & set(true)) >= 17
    graph.close()


def test_only_an_exact_search_compares_with_everything(graph: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(store, "scan", lambda *given: compared.append(1) or searching.scan(*given))
    graph.search(vectors(1), 3)
    assert not compared
    graph.search(vectors(1), 3, exact=True)
    assert compared
    graph.close()


@pytest.mark.parametrize("damage", ["missing", "cut", "one bit", "another's"])
def test_a_damaged_structure_is_built_again(graph: Index, folder: Path, damage: str) -> None:
    graph.close()
    (file,) = structures(folder)
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content if damage == "one bit" else b"IxFI" + bytes(100))
    with open_index(folder) as index:
        assert agreement(index) > 0.95
        (built,) = structures(folder)
        assert built.stat().st_size == len(content)


def test_whoever_cannot_build_it_again_now_searches_exactly(graph: Index, folder: Path) -> None:
    (file,) = structures(folder)
    file.write_bytes(b"")
    with graph.loading("holds the lock"), open_index(folder) as index:
        assert agreement(index) == 1
        assert file.read_bytes() == b""
    graph.close()


def test_a_folder_that_is_no_index_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"jpg")
    with pytest.raises(StoreError, match=r"is not an index, because it has no index\.sqlite"):
        open_index(tmp_path)
    with pytest.raises(StoreError, match="is not empty and holds no index; name a new or an empty folder"):
        create_index(tmp_path, 8)
    with pytest.raises(StoreError, match="cannot be made a folder for an index"):
        create_index(tmp_path / "holiday.jpg", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="is damaged or not of an index"):
        open_index(tmp_path)
    (tmp_path / "index.sqlite").unlink()
    sqlite3.connect(tmp_path / "index.sqlite").close()
    with pytest.raises(StoreError, match="is a database, but not of an index"):
        open_index(tmp_path)


def test_a_link_to_a_folder_is_followed_whether_it_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, to in (("link", "empty"), ("dangling", "to come")):
        (tmp_path / name).symlink_to(to)
        create_index(tmp_path / name, 8).close()
        assert (tmp_path / name).is_symlink()
        open_index(tmp_path / to).close()


def test_files_of_the_longest_names_are_kept_and_what_a_killed_writer_left_is_cleared(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    name = "n" * 255
    with create_index(folder, 8) as index:
        index.files.put(tmp_path / "file")
        (folder / "model" / ".partial-77").write_bytes(b"half")
        index.files.put(tmp_path / "file", name)
        assert index.files.sizes() == {"file": 7, name: 7}
        index.files.fetch(name, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"content"
    assert sorted(os.listdir(folder / "model")) == ["file", name]


def test_a_newer_format_is_refused_and_kept(folder: Path) -> None:
    create_index(folder, 8).close()
    database = sqlite3.connect(folder / "index.sqlite")
    database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreError, match="has format 2, but this version reads up to format 1; upgrade"):
        open_index(folder)


@pytest.mark.parametrize(
    ("asked", "n", "d", "kind"),
    [
        ("auto", 2**18, 128, "flat"),  # 2^25 numbers
        ("auto", 2**25 + 1, 1, "hnsw"),
        ("auto", 2**24, 128, "hnsw"),  # 2^31 numbers
        ("auto", 2**31 + 1, 1, "ivfpq"),
        ("ivfpq", 9_983, 8, "flat"),
        ("ivfpq", 9_984, 8, "ivfpq"),
    ],
)
def test_the_kind_changes_just_at_the_sizes_that_are_promised(asked: str, n: int, d: int, kind: str) -> None:
    assert choose(asked, n, d).kind == kind


def test_the_kind_is_chosen_by_size_and_says_why() -> None:
    assert choose("auto", 200_000, 128).kind == "flat"
    assert choose("auto", 300_000, 128).kind == "hnsw"
    assert choose("auto", 20_000_000, 128).kind == "ivfpq"
    assert choose("flat", 20_000_000, 128).kind == "flat"
    for n in (1, 300_000, 20_000_000):
        choice = choose("auto", n, 128)
        assert choice.reason.startswith(f"{choice.kind}: ")


def test_what_was_added_is_kept_where_the_graph_cannot_be_written(folder: Path) -> None:
    with create_index(folder, 8, kind="hnsw") as index:
        obstacle = folder / "structure-1.faiss"  # a folder, which no file replaces
        obstacle.mkdir()
        with pytest.raises(StoreError, match=r"cannot be built .* no item is lost and searches are exact"):
            index.add(items(50), vectors(50))
        assert index.count() == 50
        assert agreement(index) == 1
        obstacle.rmdir()
        index.build()
        assert len(structures(folder)) == 1


def test_a_graph_is_searched_also_where_another_library_has_changed_faiss(folder: Path) -> None:
    program = """
import sys
import faiss.contrib.torch_utils  # for the whole process: tensors to faiss, and no parameters of a search
import numpy as np
from embedding_expansion.retrieval.index import Item, create_index
rows = np.random.default_rng(0).standard_normal((300, 8))
with create_index(sys.argv[1], 8, kind="hnsw") as index:
    index.add([Item(str(i)) for i in range(300)], rows)
    print(index.kind, index.search(rows[5:6], 1)[0][0].item.path)
"""
    found = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=120)
    assert (found.stdout.split(), found.stderr) == (["hnsw", "5"], "")
