"""The API over real HTTP, against plain products of the vectors that the model gives."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.serve.conftest import Running, fill, item_of, picture, serving, wait_for
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.gallery import NOTE
from embedding_expansion.inference.thresholds import thresholds_json
from embedding_expansion.retrieval.index import Item, open_index
from embedding_expansion.retrieval.threshold import Threshold


def test_a_search_finds_what_plain_products_find(running: Running, embedder: Embedder, photos: list[Path]) -> None:
    image = picture(7)
    similarities = embedder.embed(photos) @ embedder.embed(image)[0]
    best = np.argsort(-similarities)[:5]
    answer = running.search(image, params={"k": 5}).json()
    assert [match["path"] for match in answer["matches"]] == [str(photos[i]) for i in best]
    assert [match["label"] for match in answer["matches"]] == [photos[i].parent.name for i in best]
    np.testing.assert_allclose([match["similarity"] for match in answer["matches"]], similarities[best], atol=1e-5)
    assert answer["known"] is bool(similarities.max() >= 0.9)


def test_a_label_restricts_and_query_expansion_changes_what_is_found(
    running: Running, embedder: Embedder, photos: list[Path]
) -> None:
    image = photos[0].read_bytes()
    options = {"k": 4, "label": "class_3", "qe": 2, "alpha": 0}
    matches = running.search(image, params=options).json()["matches"]
    assert {match["label"] for match in matches} == {"class_3"}
    query = embedder.embed(image)[0]
    rows = embedder.embed([path for path in photos if path.parent.name == "class_3"])
    mixed = query + rows[np.argsort(-(rows @ query))[:2]].sum(axis=0)
    expected = np.sort(rows @ (mixed / np.linalg.norm(mixed)))[::-1]
    np.testing.assert_allclose([match["similarity"] for match in matches], expected, atol=1e-5)
    assert running.search(image, params={"label": "no such"}).json()["matches"] == []


def test_an_item_its_neighbours_and_its_thumbnail(running: Running, embedder: Embedder, photos: list[Path]) -> None:
    first = running.search(photos[5].read_bytes(), params={"k": 1}).json()["matches"][0]
    assert first["path"] == str(photos[5])
    item = running.get(f"/api/items/{first['id']}").json()
    assert (item["width"], item["height"], item["metadata"]) == (20, 20, {"width": 20, "height": 20})
    vectors = embedder.embed(photos)
    similarities = np.delete(vectors @ vectors[5], 5)
    found = running.get(f"/api/items/{first['id']}/neighbours", params={"k": 3}).json()["matches"]
    np.testing.assert_allclose([one["similarity"] for one in found], np.sort(similarities)[::-1][:3], atol=1e-5)
    thumbnail = running.get(first["thumbnail"])
    assert thumbnail.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(thumbnail.content)) as shown, Image.open(photos[5]) as original:
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(original))
    again = running.get(first["thumbnail"], headers={"If-None-Match": thumbnail.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_samples_are_of_the_collection_and_the_seed_says_which(running: Running, photos: list[Path]) -> None:
    drawn = [running.get("/api/samples", params={"n": 6, "seed": seed}).json()["items"] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({item["id"] for item in drawn[0]}) == 6
    assert {item["path"] for item in drawn[0]} <= {str(path) for path in photos}


def test_about_says_what_is_served(running: Running) -> None:
    about = running.get("/api/about").json()
    assert (about["name"], about["count"], about["dimensions"], about["threshold"]) == ("birds", 32, 6, 0.9)
    assert about["labels"] == [{"label": f"class_{i}", "count": 4} for i in range(8)]
    assert about["model"]["loss"] == "multi_similarity"
    assert running.get("/healthz").json() == {"status": "ok"}


def test_what_another_process_changes_is_seen_without_a_restart(
    tmp_path: Path, model: Path, embedder: Embedder, photos: list[Path]
) -> None:
    fill(tmp_path / "index", model, embedder, photos[:8]).close()
    with serving(tmp_path / "index") as server, open_index(tmp_path / "index") as index:
        wait_for(lambda: len(server.get("/api/map").json()["ids"]) == 8)
        image = photos[20].read_bytes()
        index.add([item_of(photos[20], "new")], embedder.embed(photos[20]))
        assert server.search(image).json()["matches"][0]["label"] == "new"
        index.set_note(
            NOTE,
            thresholds_json(
                {"known or unknown": Threshold(0.25, "known or unknown", "precision", 0.9, 0.9, 0.8, 40, 250)}
            ),
        )
        wait_for(lambda: len(server.get("/api/map").json()["ids"]) == 9)
        wait_for(lambda: server.get("/api/about").json()["threshold"] == 0.25)
        id = server.search(image).json()["matches"][0]["id"]
        index.remove(paths=[str(photos[20])])
        assert server.get(f"/api/items/{id}").status_code == 404


def test_names_that_are_no_text_are_shown_and_pictures_that_are_none_are_not_handed_out(
    tmp_path: Path, model: Path, embedder: Embedder, photos: list[Path]
) -> None:
    with fill(tmp_path / "index", model, embedder, photos[:1]) as index:
        odd = Item("/a/b\udce9d.jpg", "l\udce9", {"note": "x\ud800"}, b"<svg onload='alert(1)'/>")
        index.add([odd, Item("/none.jpg")], embedder.embed(photos[1:3]))
    with serving(tmp_path / "index") as server:
        matches = server.search(photos[1].read_bytes()).json()["matches"]
        found = next(match for match in matches if match["label"] == "l\ufffd")
        assert found["path"] == "/a/b\ufffdd.jpg"
        assert server.get(f"/api/items/{found['id']}").json()["metadata"] == {"note": "x\ufffd"}
        for match in matches:
            status = server.get(match["thumbnail"]).status_code
            assert status == (200 if match["path"] == str(photos[0]) else 404)


def test_an_empty_collection_is_served_too(tmp_path: Path, model: Path, embedder: Embedder, photos: list[Path]) -> None:
    with fill(tmp_path / "index", model, embedder, photos[:1]) as index:
        index.remove(paths=[str(photos[0])])
    with serving(tmp_path / "index") as server:
        wait_for(lambda: server.get("/api/map").json()["state"] == "ready")
        answer = server.search(picture(0)).json()
        assert answer == {"matches": [], "known": False, "threshold": 0.9, "threshold_reason": ""}
        assert server.get("/api/samples").json() == {"items": []}
        assert server.get("/api/clusters").json()["clusters"] == []
        assert server.get("/api/clusters/0").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/items/999", 404, "there is no item 999"),
        ("/api/items/0", 422, "id is '0'; it should be greater than or equal to 1"),
        ("/api/items/x/neighbours", 422, "id is 'x'"),
        ("/api/items/1/neighbours?k=101", 422, "k is '101'"),
        ("/api/items/99999999999999999999", 422, "id is"),
        ("/api/items/1/neighbours?qe=1&alpha=nan", 422, "alpha is 'nan'"),
        ("/api/items/999/neighbours", 404, "there is no item 999"),
        ("/api/samples?n=0", 422, "n is '0'"),
        ("/api/nothing", 404, "there is nothing at this address"),
        ("/api/search", 405, "GET is not allowed for this address"),
        ("/../../etc/passwd", 404, "there is nothing at this address"),
        ("/%2e%2e/%2e%2e/__init__.py", 404, "there is nothing at this address"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(running: Running, path: str, status: int, said: str) -> None:
    answer = running.get(path)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
