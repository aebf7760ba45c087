"""Vectors in an index: searched by files of vectors, with the run that embeds them, as plain products say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.inference.collection import Collection, model_of
from embedding_expansion.inference.thresholds import write_thresholds
from embedding_expansion.inference.vector_embedder import VectorEmbedder
from embedding_expansion.inference.vector_index import index_vectors
from embedding_expansion.model.weights import load_tensors, save_tensors
from embedding_expansion.retrieval.index import open_index
from embedding_expansion.retrieval.threshold import Threshold


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((8, 12)).repeat(5, axis=0) + rng.standard_normal((40, 12))).astype(np.float32)
    path = tmp_path_factory.mktemp("vectors") / "texts.npz"
    names = np.array([f"text {i}" for i in range(39)] + ["text 0"])
    np.savez(path, embeddings=rows, labels=np.arange(40) // 5, names=names)
    return path


@pytest.fixture(scope="module")
def run(features: Path) -> Path:
    out = features.parent / "run"
    small = (
        "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 2 --threads 1 --model.dim 4 --device cpu"
    )
    assert main(["train", "--data", str(features), *small.split(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def place(features: Path, run: Path) -> Path:
    place = features.parent / "index"
    assert main(["index", str(run), str(features), "--out", str(place)]) == 0
    return place


def test_a_file_of_vectors_finds_what_plain_products_find(
    features: Path, run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.load(features)["embeddings"]
    embedded = VectorEmbedder.load(run, device="cpu").embed(rows)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)
    np.savez(tmp_path / "queries.npz", features=rows[[3, 17]] + 0.01)
    queries = VectorEmbedder.load(run, device="cpu").embed(rows[[3, 17]] + 0.01)
    assert main(["search", str(place), str(tmp_path / "queries.npz"), "-k", "4", "--json", "-"]) == 0
    answers = json.loads(capsys.readouterr().out)["queries"]
    assert [answer["query"] for answer in answers] == ["queries.npz#0", "queries.npz#1"]
    for query, answer in zip(queries, answers, strict=True):
        best = np.argsort(-(embedded @ query))[:4]
        called = {0: "text 0 #0", 39: "text 0 #39"}  # a name that occurs twice is told apart
        assert [match["path"] for match in answer["matches"]] == [called.get(i, f"text {i}") for i in best.tolist()]
        assert [match["label"] for match in answer["matches"]] == [str(i // 5) for i in best.tolist()]


def test_the_index_alone_is_enough_and_says_what_it_is(
    features: Path, run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(place, tmp_path / "moved")
    rows = np.load(features)["embeddings"][:1]
    with Collection.open(moved, device="cpu") as collection:
        expected = VectorEmbedder.load(run, device="cpu").embed(rows)
        np.testing.assert_array_equal(collection.embed_rows(rows), expected)
        with pytest.raises(InvalidInput, match="holds vectors, not images"):
            collection.embed("a.jpg")
        with pytest.raises(InvalidInput, match="vectors of 12 dimensions"):
            collection.embed_rows(rows[:, :5])
    assert main(["info", str(moved)]) == 0
    assert "model: trained on vectors" in capsys.readouterr().out
    assert str(features.parent) not in (moved / "model" / "config.yaml").read_text()


def test_the_same_file_again_changes_nothing(features: Path, run: Path, place: Path) -> None:
    changes = index_vectors(run, features, place, device="cpu")
    assert (changes.new, changes.changed) == (0, 0)
    with open_index(place) as index:
        assert index.count() == 40


def test_labels_and_names_that_are_not_one_for_each_row_are_refused(
    features: Path, run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.load(features)["embeddings"][:3]
    for odd, said in (
        ({"labels": np.arange(2)}, "labels in"),
        ({"labels": np.array(1)}, "labels in"),
        ({"names": np.array(["a", "b"])}, "names in"),
    ):
        np.savez(tmp_path / "odd.npz", embeddings=rows, **odd)
        assert main(["index", str(run), str(tmp_path / "odd.npz"), "--out", str(place)]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert len(printed.splitlines()) == 1
    with pytest.raises(StoreError, match="has precision float32, not float16"):
        index_vectors(run, features, place, precision="float16", device="cpu")


def test_a_threshold_of_the_run_goes_into_an_index_of_vectors_and_info_says_it(
    features: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated, place = shutil.copytree(run, tmp_path / "run"), tmp_path / "index"
    threshold = Threshold(0.5, "known or unknown", "precision", 0.9, 0.95, 0.8, 4, 8)
    write_thresholds(calibrated, {"known or unknown": threshold})
    with np.load(features) as given:
        np.savez(tmp_path / "unlabelled.npz", embeddings=given["embeddings"])
    index_vectors(calibrated, tmp_path / "unlabelled.npz", place, device="cpu")
    assert main(["info", str(place)]) == 0
    assert threshold.sentence() in capsys.readouterr().out
    with Collection.open(place, device="cpu") as collection:
        assert collection.thresholds == {"known or unknown": threshold}


def test_what_does_not_fit_is_one_sentence(
    features: Path, run: Path, place: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidInput, match="embeds images"):
        index_vectors(trained, features, tmp_path / "index", device="cpu")
    with open_index(place) as index, pytest.raises(StoreError, match="holds vectors, not images"):
        model_of(index)
    other = shutil.copytree(run, tmp_path / "run")
    tensors, about = load_tensors(other / "model.safetensors")
    save_tensors(other / "model.safetensors", {name: tensor * 0.5 for name, tensor in tensors.items()}, about)
    with pytest.raises(StoreError, match="holds vectors of the model"):
        index_vectors(other, features, place, device="cpu")
    assert main(["index", str(run), str(features), "--out", str(tmp_path / "i"), "--flip", "true"]) == 2
    assert "--flip and --labels are for images" in capsys.readouterr().err
