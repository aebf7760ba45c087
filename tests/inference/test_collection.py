"""A collection against plain products of its vectors: search, query expansion, neighbours, known or unknown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.inference.collection import Collection, model_of
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.export import export
from embedding_expansion.inference.gallery import NOTE
from embedding_expansion.inference.pixels import as_pixels
from embedding_expansion.inference.thresholds import thresholds_json, write_thresholds
from embedding_expansion.retrieval.arrays import as_array
from embedding_expansion.retrieval.index import Index, Item, create_index
from embedding_expansion.retrieval.threshold import Threshold

Rows = npt.NDArray[np.float32]
N, D = 40, 6
KNOWN = Threshold(0.9, "known or unknown", "precision", 0.99, 0.993, 0.81, 40, 250)


@pytest.fixture(scope="module")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(trained, "safetensors", folder)
    return folder


@pytest.fixture(scope="module")
def rows() -> Rows:
    drawn = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


@pytest.fixture
def collection(tmp_path: Path, model: Path, rows: Rows) -> Iterator[Collection]:
    with filled(tmp_path / "index", model, rows):
        pass
    with Collection.open(tmp_path / "index", device="cpu") as opened:
        yield opened


def filled(place: Path, model: Path, rows: Rows) -> Index:
    index = create_index(place, dimensions=rows.shape[1])
    for file in model.iterdir():
        index.files.put(file)
    index.add([Item(f"{i}.jpg", label="even" if i % 2 == 0 else "odd") for i in range(len(rows))], rows)
    return index


def expanded(query: Rows, gallery: Rows, k: int, alpha: float) -> Rows:
    similarities = gallery @ query
    total = query.copy()
    for j in np.argsort(-similarities)[:k]:
        total += max(similarities[j], 0.0) ** alpha * gallery[j]
    return np.asarray(total / np.linalg.norm(total), np.float32)


@pytest.mark.parametrize(("qe", "alpha"), [(0, 3.0), (4, 3.0), (7, 0.0), (40, 0.5)])
def test_a_search_finds_what_plain_products_find(collection: Collection, rows: Rows, qe: int, alpha: float) -> None:
    queries = np.random.default_rng(1).standard_normal((3, D)).astype(np.float32)
    answers = collection.search(queries, k=5, qe=qe, alpha=alpha)
    for query, answer in zip(queries, answers, strict=True):
        query = query / np.linalg.norm(query)
        similarities = rows @ (expanded(query, rows, qe, alpha) if qe else query)
        best = np.argsort(-similarities)[:5]
        assert [match.item.path for match in answer.matches] == [f"{i}.jpg" for i in best]
        np.testing.assert_allclose([match.similarity for match in answer.matches], similarities[best], atol=1e-5)
        assert answer.known is None


@pytest.mark.parametrize("qe", [0, 3])
def test_neighbours_of_an_item_leave_it_out_and_do_not_expand_by_it(
    collection: Collection, rows: Rows, qe: int
) -> None:
    (match,) = collection.search(rows[:1], k=1)[0].matches
    assert match.item.path == "0.jpg"
    assert match.item.id is not None
    others = rows[1:]
    query = expanded(rows[0], others, qe, 3.0) if qe else rows[0]
    best = 1 + np.argsort(-(others @ query))[:6]
    answer = collection.neighbours(match.item.id, k=6, qe=qe)
    assert [found.item.path for found in answer.matches] == [f"{i}.jpg" for i in best]


def test_only_what_fulfils_the_condition_is_found_or_expands_the_query(collection: Collection, rows: Rows) -> None:
    odd = rows[1::2]
    best = 1 + 2 * np.argsort(-(odd @ expanded(rows[0], odd, 2, 3.0)))[:4]
    (answer,) = collection.search(rows[:1], k=4, qe=2, where={"label": "odd"})
    assert [match.item.path for match in answer.matches] == [f"{i}.jpg" for i in best]


def test_known_is_told_by_the_closest_item_without_expansion(tmp_path: Path, model: Path, rows: Rows) -> None:
    with filled(tmp_path / "index", model, rows) as index:
        index.set_note(NOTE, thresholds_json({"known or unknown": KNOWN}))
    with Collection.open(tmp_path / "index", device="cpu") as collection:
        assert collection.thresholds == {"known or unknown": KNOWN}
        far = -rows.sum(axis=0)
        assert (rows @ far).max() / np.linalg.norm(far) < KNOWN.value
        for qe in (0, 5):
            near, unknown = collection.search(np.stack([rows[3], far]), k=1, qe=qe)
            assert (near.known, unknown.known) == (True, False)
        (nothing,) = collection.search(rows[:1], where={"label": "none has it"}, qe=2)
        assert (nothing.matches, nothing.known) == ([], False)


def test_thresholds_come_along_with_the_model(tmp_path: Path, trained: Path, rows: Rows) -> None:
    export(trained, "safetensors", tmp_path / "model")
    write_thresholds(tmp_path / "model", {"known or unknown": KNOWN})
    with filled(tmp_path / "index", tmp_path / "model", rows) as index:
        assert model_of(index, device="cpu").thresholds == {"known or unknown": KNOWN}


def test_the_model_that_comes_out_of_an_index_embeds_as_the_one_that_went_in(
    collection: Collection, model: Path
) -> None:
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = Embedder.load(model, device="cpu").embed(image)
    np.testing.assert_array_equal(collection.embedder.embed(image), expected)


def test_what_cannot_be_searched_is_told_in_a_sentence(tmp_path: Path, collection: Collection, rows: Rows) -> None:
    with create_index(tmp_path / "bare", dimensions=D):
        pass
    with pytest.raises(StoreError, match="contains no model"):
        Collection.open(tmp_path / "bare")
    with (
        create_index(tmp_path / "wide", dimensions=D + 1) as index,
        pytest.raises(InvalidInput, match=r"embeds into 6 dimensions, but .* has 7"),
    ):
        Collection(index, collection.embedder)
    with pytest.raises(InvalidInput, match="qe is -1"):
        collection.search(rows[:1], qe=-1)
    with pytest.raises(InvalidInput, match="k is 0"):
        collection.search(rows[:1], k=0)


def test_images_and_vectors_are_read_while_another_thread_loads_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))  # as it is in the middle of its import
    assert as_pixels(np.zeros((2, 3, 3), np.uint8)).shape == (2, 3, 3)
    np.testing.assert_array_equal(as_array([[1.0, 2.0]], "rows"), [[1.0, 2.0]])
