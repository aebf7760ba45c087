"""The map and the clusters: of the whole collection, k-means' own, and the metrics that count who asked."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np

from app.serve.conftest import Running, picture, serving, wait_for
from embedding_expansion.app.serve.collection_map import compute_maps
from embedding_expansion.app.serve.projection import Projection
from embedding_expansion.retrieval.index import Item, create_index


def test_the_map_holds_every_image_once_with_its_label(running: Running, photos: list[Path]) -> None:
    drawn = running.get("/api/map").json()
    assert (drawn["state"], drawn["method"], drawn["total"]) == ("ready", "t-SNE", 32)
    assert len(set(drawn["ids"])) == 32
    for id, label in zip(drawn["ids"], drawn["label"], strict=True):
        assert running.get(f"/api/items/{id}").json()["label"] == drawn["labels"][label]
    places = np.array([drawn["x"], drawn["y"]])
    assert places.min() == 0
    assert places.max() == 1


def test_clusters_part_the_collection_and_their_images_come_by_the_distance_to_the_centre(running: Running) -> None:
    clusters = running.get("/api/clusters").json()["clusters"]
    assert [cluster["size"] for cluster in clusters] == sorted((c["size"] for c in clusters), reverse=True)
    seen: list[int] = []
    for cluster in clusters:
        listed = running.get(f"/api/clusters/{cluster['id']}").json()
        similarities = [item["similarity"] for item in listed["items"]]
        assert similarities == sorted(similarities, reverse=True)
        assert [item["id"] for item in listed["items"][:4]] == [item["id"] for item in cluster["examples"]]
        labels = [item["label"] for item in listed["items"]]
        assert labels.count(cluster["label"]) == max(map(labels.count, labels))
        assert cluster["share"] == labels.count(cluster["label"]) / len(labels)
        seen += [item["id"] for item in listed["items"]]
    assert sorted(seen) == sorted(running.get("/api/map").json()["ids"])


def test_groups_that_lie_apart_are_apart_on_the_map_and_among_the_clusters(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    group = np.arange(60) % 3
    vectors = np.eye(3, 8)[group] + 0.02 * rng.standard_normal((60, 8))
    with create_index(tmp_path / "index", dimensions=8) as index:
        index.add([Item(f"{i}.jpg", str(group[i])) for i in range(60)], vectors)
        by_pca, by_tsne = compute_maps(index, Projection())
    assert (by_pca.state, by_pca.method, by_tsne.state, by_tsne.method) == ("refining", "PCA", "ready", "t-SNE")
    for found in (by_pca, by_tsne):
        labels = np.array([int(item.label or "-1") for item in found.items])
        far = np.linalg.norm(found.positions[:, None] - found.positions[None], axis=2)
        np.fill_diagonal(far, np.inf)
        assert (labels[far.argmin(axis=1)] == labels).all()
        assert all(len(set(labels[found.grouping.members(c)])) == 1 for c in range(found.grouping.count))


def test_of_a_large_collection_a_random_part_is_drawn_and_all_labels_are_counted(tmp_path: Path) -> None:
    with create_index(tmp_path / "index", dimensions=2) as index:
        vectors = np.random.default_rng(0).standard_normal((5300, 2))
        index.add([Item(f"{i}.jpg", "even" if i % 2 == 0 else "odd") for i in range(5299)] + [Item("z.jpg")], vectors)
        projection = Projection()
        projection.stop()
        *_, found = compute_maps(index, projection)
    assert (len(found.items), found.total, found.method) == (5000, 5300, "PCA")
    assert found.facets.labels == {"even": 2650, "odd": 2649}
    assert len({item.id for item in found.items}) == 5000


def test_a_projection_in_progress_is_ended() -> None:
    projection, results = Projection(), list[object]()
    points = np.random.default_rng(0).standard_normal((4000, 20))
    thread = threading.Thread(target=lambda: results.append(projection.tsne(points)))
    thread.start()
    wait_for(lambda: projection._running is not None)
    projection.stop()
    thread.join(60)
    assert results == [None]
    assert projection.tsne(points) is None


def test_metrics_count_requests_by_route_and_status_and_the_sizes_of_batches(place: Path) -> None:
    with serving(place) as server:
        for id in (1, 2, 999):
            server.get(f"/api/items/{id}")
        for _ in range(3):
            server.search(picture(0))
        server.get("/nothing/here")
        answer = server.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = dict(re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", answer.text, re.MULTILINE))
    assert samples['embex_requests_total{method="GET",route="/api/items/{id}",status="200"}'] == "2"
    assert samples['embex_requests_total{method="GET",route="/api/items/{id}",status="404"}'] == "1"
    assert samples['embex_requests_total{method="POST",route="/api/search",status="200"}'] == "3"
    assert samples['embex_requests_total{method="GET",route="other",status="404"}'] == "1"
    assert samples['embex_request_seconds_bucket{route="/api/search",le="+Inf"}'] == "3"
    assert samples['embex_request_seconds_count{route="/api/search"}'] == "3"
    assert (samples["embex_batch_size_count"], samples["embex_batch_size_sum"]) == ("3", "3")
    assert (samples["embex_queue_length"], samples["embex_queue_limit"], samples["embex_items"]) == ("0", "64", "32")
    for line in answer.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)*\})? [-+0-9.e]+', line), line
