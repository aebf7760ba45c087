"""A collection of vectors is served too: searched from its items, since there is no image to search by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.serve.browser import names, page_of, until
from app.serve.conftest import Running, picture, serving, wait_for
from embedding_expansion.app.cli import main
from embedding_expansion.inference.vector_embedder import VectorEmbedder
from embedding_expansion.inference.vector_index import index_vectors


@pytest.fixture(scope="module")
def rows() -> Any:
    centres = np.random.default_rng(0).standard_normal((8, 12))
    return (np.repeat(centres, 5, axis=0) + 0.3 * np.random.default_rng(1).standard_normal((40, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def run(rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    texts = np.array([f"text {i}" for i in range(40)])
    np.savez(folder / "features.npz", embeddings=rows, labels=np.arange(40) // 5, names=texts)
    small = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 2 --threads 1 --device cpu"
    given = ["--data", str(folder / "features.npz"), *small.split(), "--model.dim", "4"]
    assert main(["train", *given, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def texts(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("index") / "texts"
    index_vectors(run, run.parent / "features.npz", place, device="cpu")
    with serving(place) as server:
        wait_for(lambda: server.get("/api/map").json()["state"] == "ready")
        yield server


def test_neighbours_are_found_and_an_image_is_refused_in_a_sentence(texts: Running, run: Path, rows: Any) -> None:
    vectors = VectorEmbedder.load(run, device="cpu").embed(rows)
    id = next(item["id"] for item in texts.get("/api/samples?n=40").json()["items"] if item["path"] == "text 7")
    best = [i for i in np.argsort(-(vectors @ vectors[7])) if i != 7][:3]
    found = texts.get(f"/api/items/{id}/neighbours?k=3").json()["matches"]
    assert [match["path"] for match in found] == [f"text {i}" for i in best]
    assert texts.get("/api/about").json()["takes_images"] is False
    refused = texts.search(picture(0))
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "this collection holds vectors, not images; ask for the neighbours of its items",
    )


def test_the_page_shows_names_for_pictures_and_takes_no_image(chromium: Any, texts: Running) -> None:
    with page_of(chromium, texts.url) as page:
        page.locator("#samples li a").first.click()
        assert len(names(page)) == 20
        assert page.locator("#choose").is_hidden()
        assert page.locator("#matches .gone").count() == 20
        until(page, "document.querySelectorAll('#clusters li').length > 0")
