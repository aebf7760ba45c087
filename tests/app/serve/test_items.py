"""Browsing, filters, several images as one query, originals, exports, clusters by k and duplicates, over real HTTP."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.serve.conftest import Running, fill, item_of, picture, serving, wait_for
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.retrieval.index import Item, open_index


@pytest.fixture(scope="module")
def odd(model: Path, embedder: Embedder, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server over 32 images with a year each, and four items whose file is not what it should be."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "text.png").write_text("no image, but a secret")
    os.mkfifo(folder / "pipe.png")
    strange = [Item(str(folder / "text.png")), Item(str(folder / "pipe.png")), Item("relative.png"), Item("/gone.png")]
    with fill(folder / "index", model, embedder, photos) as index:
        items = [item_of(path, path.parent.name) for path in photos]
        dated = [
            Item(one.path, one.label, {**one.metadata, "year": 2000 + i % 4, "by": "=A1"}, one.thumbnail)
            for i, one in enumerate(items)
        ]
        index.add(dated, embedder.embed(photos))
        index.add(strange, embedder.embed(photos[:4]))
    with serving(folder / "index") as server:
        wait_for(lambda: server.get("/api/map").json()["state"] == "ready")
        yield server


def post(server: Running, path: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60, **options)


def ids_of(server: Running, **filters: Any) -> list[int]:
    found = server.get("/api/items", params={"n": 200, **filters}).json()
    assert found["total"] == len(found["items"])
    return [item["id"] for item in found["items"]]


def test_pages_of_browsing_hold_every_image_once(odd: Running) -> None:
    seen: list[int] = []
    while page := odd.get("/api/items", params={"after": seen[-1] if seen else 0, "n": 7}).json()["items"]:
        seen += [item["id"] for item in page]
    assert seen == sorted(set(seen))
    assert len(seen) == 36


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"label": "class_3"}, 4),
        ({"label": "class"}, 0),
        ({"label_contains": "CLASS_3"}, 4),
        ({"label_contains": "class"}, 32),
        ({"path_contains": "CLASS_1/2"}, 1),
        ({"meta": "year=2001"}, 8),
        ({"meta": ["year=2001", "year=2002"]}, 16),
        ({"meta": ["year=2001", "by==A1"]}, 8),
        ({"meta": ["year=2001", "by=no"]}, 0),
        ({"meta": "width=20.0", "label": "class_0"}, 4),
    ],
)
def test_filters_leave_what_they_say(odd: Running, filters: dict[str, Any], wanted: int) -> None:
    found = ids_of(odd, **filters)
    assert len(found) == wanted
    answer = odd.search(picture(1), params={"k": 100, **filters}).json()
    assert sorted(match["id"] for match in answer["matches"]) == found


def test_labels_and_metadata_are_offered(odd: Running) -> None:
    found = odd.get("/api/labels", params={"contains": "SS_4"}).json()
    assert found == {"labels": [{"label": "class_4", "count": 4}]}
    by, year = odd.get("/api/facts").json()["facts"]
    assert by == {"key": "by", "values": [{"value": "=A1", "count": 32}]}
    assert year["key"] == "year"
    assert sorted((one["value"], one["count"]) for one in year["values"]) == [(str(2000 + i), 8) for i in range(4)]


def test_pages_of_an_answer_are_the_whole_answer(running: Running) -> None:
    whole = running.get("/api/items/3/neighbours", params={"k": 31}).json()
    pages = [
        running.get("/api/items/3/neighbours", params={"k": 10, "offset": offset}).json() for offset in (0, 10, 20, 30)
    ]
    assert [match for page in pages for match in page["matches"]] == whole["matches"]
    assert {page["known"] for page in pages} == {whole["known"]}


def test_several_images_are_searched_by_the_mean_of_their_vectors(
    running: Running, embedder: Embedder, photos: list[Path]
) -> None:
    image = picture(3)
    sent = httpx.post(f"{running.url}/api/embed", content=image, timeout=60).json()["vector"]
    np.testing.assert_array_equal(np.array(sent, np.float32), embedder.embed(image)[0])
    ids = ids_of(running, path_contains="class_2")[:2]
    answer = post(running, "/api/query?k=30", {"ids": ids, "vectors": [sent]}).json()
    paths = [running.get(f"/api/items/{id}").json()["path"] for id in ids]
    rows = embedder.embed(photos)
    query = embedder.embed([image, *paths]).mean(axis=0)
    similarities = {str(path): row @ query / np.linalg.norm(query) for path, row in zip(photos, rows, strict=True)}
    expected = sorted((value for path, value in similarities.items() if path not in paths), reverse=True)
    np.testing.assert_allclose([match["similarity"] for match in answer["matches"]], expected[:30], atol=1e-5)
    assert answer["known"] is None  # thresholds are measured with single images
    assert post(running, "/api/query?k=5", {"vectors": [sent]}).json() == running.search(image, params={"k": 5}).json()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "the query has no image"),
        ({"ids": [999]}, 404, "there is no item 999"),
        ({"vectors": [[1.0]]}, 422, "does not have 6 numbers"),
        ({"vectors": [[1, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0]]}, 422, "cancel out"),
        ({"vectors": [[0, 0, 0, 0, 0, 0]]}, 422, "zero"),
        ({"ids": ["x"]}, 422, "ids.0 is wrong"),
        ({"ids": list(range(1, 102))}, 422, "ids is wrong"),
    ],
)
def test_a_query_that_cannot_be_is_refused_in_one_sentence(
    running: Running, body: dict[str, Any], status: int, said: str
) -> None:
    answer = post(running, "/api/query", body)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text


def test_a_body_in_json_is_limited(running: Running) -> None:
    assert httpx.post(f"{running.url}/api/query", content=b" " * 4_000_001, timeout=60).status_code == 413
    assert "wrong" in httpx.post(f"{running.url}/api/query", content=b"{", timeout=60).json()["detail"]


def test_originals_are_those_of_items_and_nothing_but_images(odd: Running, photos: list[Path]) -> None:
    id = ids_of(odd, path_contains="class_5/1")[0]
    answer = odd.get(f"/api/items/{id}/original")
    assert answer.content == next(path for path in photos if str(path).endswith("class_5/1.png")).read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert odd.get(f"/api/items/{id}/original", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    for part, said in {
        "text.png": "is not an image",
        "pipe.png": "is not an image",
        "relative.png": "not absolute",
        "/gone.png": "No such file",
    }.items():
        (id,) = ids_of(odd, path_contains=part)
        refused = odd.get(f"/api/items/{id}/original")
        assert (refused.status_code, said in refused.json()["detail"]) == (404, True), refused.text
    assert odd.get("/api/items/999/original").status_code == 404


def test_a_server_without_originals_hands_out_none(place: Path) -> None:
    with serving(place, originals=False) as server:
        assert server.get("/api/items/1/original").status_code == 404
        assert post(server, "/api/export?format=zip", {"ids": [1]}).status_code == 404
        assert server.get("/api/about").json()["originals"] is False


def test_a_selection_is_exported_as_paths_a_table_and_a_zip(odd: Running, photos: list[Path]) -> None:
    ids = ids_of(odd, label_contains="class")[:5] + ids_of(odd, path_contains="text.png")
    paths = [odd.get(f"/api/items/{id}").json()["path"] for id in ids]
    assert post(odd, "/api/export?format=paths", {"ids": ids}).text.splitlines() == paths
    rows = list(csv.DictReader(io.StringIO(post(odd, "/api/export?format=csv", {"ids": ids}).text)))
    assert [row["path"] for row in rows] == paths
    assert rows[0]["by"] == "'=A1"  # no formula
    assert (rows[0]["label"], rows[-1]["label"], rows[-1]["year"]) == (photos[0].parent.name, "", "")
    with zipfile.ZipFile(io.BytesIO(post(odd, "/api/export?format=zip", {"ids": ids}).content)) as zipped:
        assert zipped.testzip() is None
        table = list(csv.DictReader(io.TextIOWrapper(zipped.open("images.csv"), "utf-8")))
        assert [row["path"] for row in table] == paths
        for row in table[:-1]:
            assert zipped.read(row["file"]) == Path(row["path"]).read_bytes()
        assert table[-1]["file"] == "left out: the file of this item is not an image any more"
        assert len(zipped.namelist()) == len(ids)  # 5 images and the table
    assert post(odd, "/api/export", {"ids": [1, 999]}).status_code == 404


def test_the_default_number_of_clusters_is_that_of_the_labels_and_another_can_be_asked_for(running: Running) -> None:
    found = running.get("/api/clusters").json()
    assert (found["decided"], len(found["clusters"])) == ("labels", 8)
    assert running.get("/api/clusters?k=3").json()["state"] in ("computing", "ready")
    wait_for(lambda: running.get("/api/clusters?k=3").json()["state"] == "ready")
    found = running.get("/api/clusters?k=3").json()
    assert (found["decided"], len(found["clusters"])) == ("request", 3)
    assert sum(cluster["size"] for cluster in found["clusters"]) == 32
    assert running.get("/api/clusters/2?k=3").json()["size"] == found["clusters"][2]["size"]
    assert running.get("/api/clusters/3?k=3").status_code == 404
    assert max(running.get("/api/map?k=3").json()["cluster"]) == 2
    pages = [running.get(f"/api/clusters/0?k=3&n=4&offset={offset}").json()["items"] for offset in (0, 4)]
    assert [*pages[0], *pages[1]] == running.get("/api/clusters/0?k=3&n=8").json()["items"]


def test_near_duplicates_are_all_pairs_that_are_similar_enough(odd: Running, embedder: Embedder) -> None:
    def found() -> dict[str, Any]:
        answer: dict[str, Any] = odd.get("/api/duplicates?similarity=0.9999").json()
        return answer

    wait_for(lambda: found()["state"] == "ready")
    ids = [{item["id"] for item in group["items"]} for group in found()["listed"]]
    with open_index(odd.service.settings.index) as index:
        (batch,) = index.batches()
    items, rows = batch
    pairs = np.argwhere(np.triu(rows @ rows.T >= 0.9999, 1))
    for a, b in pairs:
        assert any({items[a].id, items[b].id} <= group for group in ids)
    assert set().union(*ids) == {items[row].id for pair in pairs for row in pair}
    assert found()["images"] == sum(map(len, ids))
