"""What an index does, the same in a folder and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.retrieval.index import Changes, Item, create_index, open_index
from retrieval.index.brute_force import Expected, items, same, vectors
from retrieval.test_cosines import with_copies


def test_it_finds_what_comparing_with_everything_finds(place: str) -> None:
    with create_index(place, 8, kind="flat") as index:
        expected = Expected()
        expected.add(index, items(60), vectors(60))
        queries = vectors(5, seed=1) * 3
        for query, found in zip(queries, index.search(queries, 7), strict=True):
            same(found, expected.search(query, 7))


def test_no_similarity_is_beyond_1(place: str) -> None:
    rows = vectors(200)
    with create_index(place, 8) as index:
        index.add(items(200), rows)
        found = [one[0] for one in index.search(rows, 1)] + [one[-1] for one in index.search(-rows, 200)]
        assert all(-1 <= match.similarity <= 1 for match in found)
        assert max(match.similarity for match in found) == pytest.approx(1)
        assert min(match.similarity for match in found) == pytest.approx(-1)


@pytest.mark.parametrize("d", [2, 100, 2048])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_an_index_finds_equal_rows_at_1_and_opposite_ones_at_minus_1(place: str, d: int, precision: str) -> None:
    rows, which = with_copies(d)
    with create_index(place, d, precision=precision) as index:
        index.add([Item(f"{number}/{row}") for row, number in enumerate(which)], rows)
        for number, found in zip(which, index.search(rows, 23 * 3), strict=True):
            equal = [match.item.path.partition("/")[0] for match in found if match.similarity >= 1]
            assert equal == [str(number)] * 3
        least = [found[-1].similarity for found in index.search(-rows, 23 * 3)]
        assert set(least) == {-1.0}


def test_equally_close_items_come_by_their_id(place: str) -> None:
    with create_index(place, 3) as index:
        index.add([Item(str(i)) for i in range(40)], np.repeat([[1.0, 2.0, 3.0]], 40, axis=0))
        index.add([Item("closer")], np.array([[1.0, 2.0, 2.9]]))
        (found,) = index.search(np.array([[1.0, 2.0, 2.9]]), 6)
        assert [match.item.path for match in found] == ["closer", "0", "1", "2", "3", "4"]


def test_what_is_added_is_there_when_it_is_opened_again(place: str) -> None:
    item = Item(
        "a/ü/日本.jpg", "Käfer", {"year": 1965, "tags": ["x", None], "f": 1.5, "deep": {"a": 1}}, b"\x00\xffpng"
    )
    with create_index(place, 2) as index:
        index.add([item], np.array([[3.0, 4.0]]))
    with open_index(place) as index:
        (match,) = index.search(np.array([[3.0, 4.0]]), 1, thumbnails=True)[0]
        assert match.item == item
        assert match.similarity == pytest.approx(1, abs=1e-6)
        assert index.get(match.item.id or 0) == item
        np.testing.assert_allclose(index.vectors([match.item.id or 0]), [[0.6, 0.8]], atol=1e-7)


def test_thumbnails_come_only_when_asked_for(place: str) -> None:
    with create_index(place, 2) as index:
        index.add([Item("a", thumbnail=b"png")], np.eye(2)[:1])
        assert index.search(np.eye(2)[:1], 1)[0][0].item.thumbnail is None
        assert next(index.batches())[0][0].thumbnail is None
        assert next(index.batches(thumbnails=True))[0][0].thumbnail == b"png"


def test_file_names_that_are_no_utf8_and_odd_texts_keep_their_identity(place: str) -> None:
    names = ["caf\udce9.jpg", "café.jpg", "", " ", "a\nb", "a\x00b", "%_'\"\\", "a" * 3000]
    rows = [Item(name, label=name, metadata={name: name}) for name in names]
    with create_index(place, 2) as index:
        index.add(rows, np.repeat([[1.0, 0.0]], len(names), axis=0))
        assert [item for found, _ in index.batches() for item in found] == rows
        for row in rows:
            for where in ({"path": row.path}, {"label": row.label}, {"metadata": {row.path: row.path}}):
                assert [match.item for match in index.search(np.eye(2)[:1], 9, where)[0]] == [row]


def test_the_same_path_again_replaces_and_keeps_its_id(place: str) -> None:
    with create_index(place, 2) as index:
        assert index.add([Item("a", "old"), Item("b")], np.eye(2)) == Changes(new=2, changed=0)
        before = {item.path: item.id for item in next(index.batches())[0]}
        changes = index.add([Item("a", "new", {"n": 1}), Item("b"), Item("c")], np.array([[0, 1.0], [0, 1], [1, 1]]))
        assert changes == Changes(new=1, changed=1)
        (found,) = index.search(np.array([[0, 1.0]]), 3)
        assert [match.item.path for match in found] == ["a", "b", "c"]
        assert [match.similarity for match in found] == pytest.approx([1, 1, 0.5**0.5], abs=1e-6)
        after = {item.path: item.id for item in next(index.batches())[0]}
        assert {path: after[path] for path in before} == before
        assert index.count({"metadata": {"n": 1}}) == 1
        index.add([Item("a", "new", {"m": 2})], np.array([[0, 1.0]]))
        assert index.count({"metadata": {"n": 1}}) == 0


def test_of_equal_paths_in_one_call_the_last_counts(place: str) -> None:
    with create_index(place, 2) as index:
        assert index.add([Item("a", "x"), Item("b"), Item("a", "y")], np.eye(2)[[0, 0, 1]]) == Changes(2, 0)
        assert index.search(np.eye(2)[1:], 1)[0][0].item == Item("a", "y")


def test_what_is_removed_is_found_no_more(place: str) -> None:
    with create_index(place, 8) as index:
        index.add(items(20), vectors(20))
        index.search(vectors(1), 20)  # so that a process which keeps rows in memory has them
        assert index.remove({"label": "class 0"}) == 4
        assert index.remove(paths=["a/2.jpg", "b/1.jpg", "no such path"]) == 2
        assert index.remove({"label": "class 0"}) == 0
        left = {match.item.path for match in index.search(vectors(1), 20)[0]}
        assert left == {item.path for item in items(20) if item.label != "class 0"} - {"a/2.jpg", "b/1.jpg"}
        assert index.count() == 14
        assert index.remove({"path_prefix": ""}) == 14
        assert index.search(vectors(1), 20) == [[]]


def test_an_empty_index_finds_nothing_and_takes_nothing(place: str) -> None:
    with create_index(place, 8) as index:
        assert index.search(vectors(2), 5) == [[], []]
        assert index.search(vectors(0), 5) == []
        assert index.add([], vectors(0)) == Changes(0, 0)
        assert index.count() == 0
        assert list(index.batches()) == []
        assert index.build() is None
        assert index.vectors([]).shape == (0, 8)


def test_k_beyond_the_number_of_items_finds_them_all(place: str) -> None:
    with create_index(place, 8) as index:
        index.add(items(3), vectors(3))
        assert len(index.search(vectors(1), 1_000_000)[0]) == 3


def test_batches_go_through_everything_once_by_id(place: str) -> None:
    with create_index(place, 8) as index:
        index.add(items(25), vectors(25))
        ids: list[int] = []
        for found, rows in index.batches(size=10):
            assert len(found) == len(rows) <= 10
            ids += [item.id or 0 for item in found]
            unit = vectors(25)[[int(item.path[2:-4]) for item in found]]
            np.testing.assert_allclose(rows, unit / np.linalg.norm(unit, axis=1, keepdims=True), atol=1e-6)
        assert ids == sorted(set(ids))
        assert len(ids) == 25
        assert sum(len(found) for found, _ in index.batches({"label": None})) == 5


def test_half_precision_finds_the_same_within_its_rounding(place: str) -> None:
    with create_index(place, 8, precision="float16") as index:
        index.add(items(50), vectors(50))
        (found,) = index.search(vectors(1), 50)
        rows, query = vectors(50).astype(float), vectors(1)[0].astype(float)
        cosines = rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
        assert [match.similarity for match in found] == pytest.approx(sorted(cosines, reverse=True), abs=1e-3)
        assert np.linalg.norm(index.vectors([found[0].item.id or 0])) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dimensions", [1, 2000, 2500, 4500])
def test_few_and_very_many_dimensions(place: str, dimensions: int) -> None:
    with create_index(place, dimensions) as index:
        expected = Expected()
        expected.add(index, items(12), vectors(12, dimensions))
        query = vectors(1, dimensions, seed=1)
        same(index.search(query, 5)[0], expected.search(query[0], 5))


def test_very_large_and_very_small_vectors_are_directions_like_others(place: str) -> None:
    with create_index(place, 2) as index:
        index.add([Item("large"), Item("small")], np.array([[1e300, 1e300], [1e-300, 0]]))
        (found,) = index.search(np.array([[1e-310, 1e-310]]), 2)
        assert [match.similarity for match in found] == pytest.approx([1, 0.5**0.5], abs=1e-6)


def test_notes_and_the_files_of_a_model_are_kept(place: str, tmp_path: Path) -> None:
    weights, back = tmp_path / "weights.safetensors", tmp_path / "back"
    with create_index(place, 2) as index:
        index.set_note("model", {"digest": "3f2a"})
        index.set_note("model", {"digest": "77"})
        for content in (b"old", bytes(range(256)) * 100_000, b""):
            weights.write_bytes(content)
            index.files.put(weights)
        assert index.files.sizes() == {"weights.safetensors": 0}
        weights.write_bytes(bytes(range(256)) * 100_000)
        index.files.put(weights, "ü.bin")
    with open_index(place) as index:
        assert index.notes == {"model": {"digest": "77"}}
        assert index.files.sizes() == {"weights.safetensors": 0, "ü.bin": 25_600_000}
        index.files.fetch("ü.bin", back)
        assert back.read_bytes() == weights.read_bytes()
        with pytest.raises(InvalidInput, match=r"has no file 'other'; pass one of its files: weights\.safetensors"):
            index.files.fetch("other", back)


def test_two_indexes_on_one_backend_do_not_mix(place: str, other_place: Callable[[], str]) -> None:
    with create_index(place, 2) as one, create_index(other_place(), 3) as two:
        one.add([Item("a")], np.eye(2)[:1])
        assert two.count() == 0
        assert two.dimensions == 3


def test_a_closed_index_says_so(place: str) -> None:
    index = create_index(place, 2)
    index.close()
    index.close()
    assert repr(index) == "<Index, closed>"
    with pytest.raises(StoreError, match="the index is closed; open it again"):
        index.count()
