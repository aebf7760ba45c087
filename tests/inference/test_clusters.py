"""Clusters against plain loops: numbers by size, centres, representatives; and which method options ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embedding_expansion.errors import InvalidInput, StoreError, UnknownName
from embedding_expansion.inference.clusters import Clustering, cluster
from embedding_expansion.inference.gathering import gathered
from embedding_expansion.retrieval.arrays import unit_vectors
from embedding_expansion.retrieval.clustering import agglomerative, hdbscan, louvain, partition_metrics, silhouette
from embedding_expansion.retrieval.index import Item, create_index
from embedding_expansion.retrieval.kmeans import kmeans

Rows = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Four groups of 9, 14, 6 and 11 rows in a mixed order, and 5 rows far from all; of several lengths."""
    random = np.random.default_rng(4)
    centres = np.eye(8)[:4]
    groups = [
        centre + 0.05 * random.standard_normal((size, 8)) for centre, size in zip(centres, (9, 14, 6, 11), strict=True)
    ]
    far = -np.eye(8)[:5] + 0.3 * random.standard_normal((5, 8))
    mixed = random.permutation(np.concatenate([*groups, far]))
    return np.asarray(mixed * random.uniform(0.2, 3, (len(mixed), 1)))


def check(found: Clustering, rows: Rows) -> None:
    """Every law of a Clustering, by loops."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    members = {number: np.flatnonzero(found.cluster == number).tolist() for number in set(found.cluster.tolist())}
    noise = members.pop(-1, [])
    assert sorted(members) == list(range(len(members)))
    assert found.noise == len(noise)
    order = sorted(members, key=lambda number: (-len(members[number]), members[number][0]))
    assert order == sorted(members)
    assert found.sizes.tolist() == [len(members[number]) for number in order]
    for number, own in members.items():
        centre = sum(units[row] for row in own)
        cosines = [float(units[row] @ centre / np.linalg.norm(centre)) for row in own]
        np.testing.assert_allclose(found.similarity[own], cosines, atol=1e-6)
        closest = found.members(number)
        assert found.representatives[number] == closest[0]
        assert sorted(closest.tolist()) == own
        assert (np.diff(found.similarity[closest]) <= 0).all()
    assert np.isnan(found.similarity[noise]).all()


def test_without_options_louvain_finds_communities(rows: Rows) -> None:
    found = cluster(rows)
    assert found.method == "louvain"
    assert "number of clusters is not given" in found.reason
    check(found, rows)
    of_units = louvain(unit_vectors(rows, rows.shape[1]))
    pairs = set(zip(found.cluster.tolist(), of_units.tolist(), strict=True))  # the same clusters, numbered otherwise
    assert len(pairs) == len(np.unique(found.cluster)) == len(of_units.unique())
    assert found.silhouette == pytest.approx(silhouette(rows, found.cluster), abs=1e-6)


def test_it_says_how_sure_it_is() -> None:
    apart = cluster(np.repeat(np.eye(3), 4, axis=0), k=3)
    assert apart.sure == "mean silhouette 1.00: the clusters are clearly apart"
    assert "overlap" in cluster(np.random.default_rng(0).standard_normal((60, 30)), k=5).sure
    assert "one cluster at most" in cluster(np.eye(3), k=1).sure


def test_with_a_smallest_size_hdbscan_finds_the_groups_and_the_noise(rows: Rows) -> None:
    found = cluster(rows, min_cluster_size=5)
    assert found.method == "hdbscan"
    assert len(found.sizes) == 4
    assert 0 < found.noise <= 5
    check(found, rows)
    assert partition_metrics(found.cluster, hdbscan(rows).numpy())["ari"] == 1


@pytest.mark.parametrize("k", [1, 3, 45])
def test_with_k_it_is_k_means(rows: Rows, k: int) -> None:
    found = cluster(rows, k=k, seed=7)
    assert (found.method, len(found.sizes)) == ("kmeans", k)
    check(found, rows)
    units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    assert partition_metrics(found.cluster, kmeans(units, k, seed=7).assignment)["ari"] == 1


def test_agglomerative_takes_a_number_or_a_similarity(rows: Rows) -> None:
    by_number, by_similarity = cluster(rows, method="agglomerative", k=6), cluster(rows, similarity=0.8)
    assert len(by_number.sizes) == 6
    assert by_similarity.method == "agglomerative"
    assert partition_metrics(by_similarity.cluster, agglomerative(rows, similarity=0.8))["ari"] == 1
    check(by_number, rows)
    check(by_similarity, rows)


def test_fewer_rows_in_a_cluster_give_more_clusters(rows: Rows) -> None:
    assert len(cluster(rows, min_cluster_size=10).sizes) < len(cluster(rows, min_cluster_size=5).sizes)


def test_where_nothing_is_dense_all_is_noise() -> None:
    found = cluster(np.eye(12), method="hdbscan")
    assert (found.noise, found.sizes.tolist(), found.representatives.tolist()) == (12, [], [])


def test_rows_that_cancel_each_other_out_have_a_centre_without_a_direction() -> None:
    found = cluster(np.array([[1.0, 0.0], [-1.0, 0.0]]), k=1)
    assert found.similarity.tolist() == [0, 0]
    assert found.representatives.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 46}, "k is 46 but embeddings has 45 rows"),
        ({"k": 0}, "k is 0"),
        ({"method": "kmeans"}, "k-means needs k"),
        ({"method": "hdbscan", "k": 3}, "k is 3, but hdbscan only takes min_cluster_size"),
        ({"k": 3, "min_cluster_size": 4}, "min_cluster_size is 4, but k-means only takes k"),
        ({"k": 3, "similarity": 0.5}, "similarity is 0.5, but k-means only takes k"),
        ({"method": "agglomerative"}, "one of similarity and k"),
        ({"similarity": 1.5}, "similarity is 1.5"),
        ({"min_cluster_size": 1}, "min_cluster_size is 1"),
        ({"method": "louvain", "k": 2}, "louvain takes no such option"),
    ],
)
def test_options_that_cannot_be_are_refused(rows: Rows, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        cluster(rows, **options)  # type: ignore[arg-type]


def test_a_method_that_there_is_not_and_vectors_that_are_none_are_refused(rows: Rows) -> None:
    with pytest.raises(UnknownName, match="did you mean 'kmeans'"):
        cluster(rows, method="k-means")
    with pytest.raises(InvalidInput, match=r"shape \(0, 8\)"):
        cluster(rows[:0])
    with pytest.raises(InvalidInput, match="min_cluster_size is 5"):
        cluster(rows[:3], method="hdbscan")


def test_an_index_is_gathered_in_the_order_of_its_ids(tmp_path: Path, rows: Rows) -> None:
    with create_index(tmp_path / "index", dimensions=8) as index:
        with pytest.raises(StoreError, match="holds no images"):
            gathered(index)
        index.add([Item(f"{i}.jpg", label="abc"[i % 3], thumbnail=b"x") for i in range(len(rows))], rows)
        items, vectors = gathered(index)
        assert [item.path for item in items] == [f"{i}.jpg" for i in range(len(rows))]
        assert {item.thumbnail for item in items} == {None}
        np.testing.assert_allclose(vectors, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)
        assert {item.label for item in gathered(index, {"label": "b"})[0]} == {"b"}
        with pytest.raises(StoreError, match="that match the filter"):
            gathered(index, {"label": "none"})
