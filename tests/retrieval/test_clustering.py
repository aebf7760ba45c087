from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
    silhouette_score,
)

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.clustering import (
    agglomerative,
    clustering_metrics,
    hdbscan,
    louvain,
    partition_metrics,
    silhouette,
)
from embedding_expansion.retrieval.kmeans import _start, kmeans, move_centers
from embedding_expansion.retrieval.verification import verification

from .oracles import joined, pairwise_f1


def blobs(n: int, centers: int, spread: float, seed: int, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % centers
    return random.normal(size=(centers, d))[labels] + spread * random.normal(size=(n, d)), labels


@pytest.mark.parametrize(("spread", "k"), [(0.05, 12), (0.6, 12), (0.6, 200)])
def test_inertia_is_about_that_of_scikit_learn(spread: float, k: int) -> None:
    rows, _ = blobs(900, 12, spread, 0)
    ours = kmeans(rows, k, restarts=3, tolerance=0)
    theirs = KMeans(k, n_init=3, random_state=0, tol=0).fit(rows)
    assert ours.converged
    assert ours.inertia <= 1.03 * theirs.inertia_


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_centers_are_means_and_every_row_is_with_its_nearest_center(seed: int, k: int) -> None:
    rows = torch.from_numpy(blobs(80, 6, 0.5, seed, d=3)[0])
    found = kmeans(rows, k, seed=seed, tolerance=0)
    assert found.converged
    assert found.assignment.unique().tolist() == list(range(k))
    means = torch.stack([rows[found.assignment == cluster].mean(0) for cluster in range(k)])
    torch.testing.assert_close(found.centers, means)
    distances = torch.cdist(rows, found.centers).square()
    torch.testing.assert_close(distances.min(1).values, distances.gather(1, found.assignment[:, None])[:, 0])
    assert found.inertia == pytest.approx(float(distances.min(1).values.sum()), rel=1e-9, abs=1e-9)


@given(st.integers(0, 10**6))
def test_the_seed_decides_and_more_restarts_do_no_harm(seed: int) -> None:
    rows, _ = blobs(150, 10, 0.7, 0)
    once, again = kmeans(rows, 10, seed=seed), kmeans(rows, 10, seed=seed)
    assert torch.equal(once.assignment, again.assignment)
    assert torch.equal(once.centers, again.centers)
    assert kmeans(rows, 10, seed=seed, restarts=3).inertia <= once.inertia


@pytest.mark.parametrize("k", [1, 5, 7])
def test_fewer_different_rows_than_clusters_end_at_inertia_zero(k: int) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)[np.arange(43) % min(k, 4)]
    found = kmeans(rows, k, tolerance=0)
    assert found.converged
    assert found.centers.shape == (k, 9)
    assert found.inertia == pytest.approx(0, abs=1e-10)


def test_a_start_takes_each_row_once() -> None:
    rows = torch.arange(1.0, 9.0)[:, None]
    for seed in range(5):
        started = _start(rows, 8, np.random.default_rng(seed))
        assert started.flatten().sort().values.tolist() == rows.flatten().tolist()


def test_a_sampled_start_takes_each_row_once() -> None:
    rows = np.arange(40.0)[:, None]
    for seed in range(3):
        assert kmeans(rows, 40, start="sample", seed=seed, max_iterations=1).inertia == pytest.approx(0, abs=1e-9)


def test_one_iteration_moves_the_centers_once() -> None:
    rows = torch.tensor([[0.0], [1.0], [5.0]])
    assert kmeans(rows, 1, max_iterations=1).centers.tolist() == [[2.0]]


def test_autocast_changes_nothing() -> None:
    rows = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))  # no start is much better than others
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kmeans(rows, 40)
    assert torch.equal(found.centers, kmeans(rows, 40).centers)


def test_a_center_without_rows_moves_to_the_farthest_row() -> None:
    rows = torch.tensor([[0.0], [2.0], [9.0], [5.0]])
    moved = move_centers(rows, torch.tensor([0, 0, 0, 2]), torch.tensor([1.0, 1.0, 64.0, 0.0]), 4)
    assert moved.flatten().tolist() == pytest.approx([11 / 3, 9, 5, 0])


def test_a_large_common_mean_costs_no_digits() -> None:
    rows = torch.from_numpy(blobs(200, 4, 0.01, 0)[0]).float()
    near, far = kmeans(rows, 4), kmeans(rows + 1000, 4)
    assert far.inertia == pytest.approx(near.inertia, rel=0.05)
    assert normalized_mutual_info_score(near.assignment, far.assignment) == pytest.approx(1)


def test_more_centers_than_rounds_of_drawing_find_well_parted_groups() -> None:
    rows, labels = blobs(1800, 600, 0.02, 0, d=16)
    found = kmeans(rows, 600)
    assert normalized_mutual_info_score(labels, found.assignment) > 0.99
    assert torch.equal(found.assignment, kmeans(rows, 600).assignment)


def test_stopping_at_the_limit_is_told() -> None:
    rows, _ = blobs(500, 30, 1.0, 0)
    found = kmeans(rows, 30, max_iterations=1, tolerance=0)
    assert (found.iterations, found.converged) == (1, False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_clustered_in_float32(dtype: torch.dtype) -> None:
    rows, labels = blobs(120, 4, 0.05, 0)
    found = kmeans(torch.from_numpy(rows).to(dtype), 4, restarts=2)
    assert found.centers.dtype == torch.float32
    assert normalized_mutual_info_score(labels, found.assignment) == pytest.approx(1)


@given(st.integers(0, 10**6))
def test_the_measures_equal_enumerated_pairs_and_scikit_learn(seed: int) -> None:
    rows, labels = blobs(60, 5, 0.6, seed)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    clusters = kmeans(unit, 5, seed=seed).assignment.tolist()
    found = clustering_metrics(rows, labels, seed=seed)
    assert found["f1"] == pytest.approx(pairwise_f1(labels.tolist(), clusters))
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(labels, clusters))


def test_well_parted_classes_are_found_whatever_their_norms_and_labels() -> None:
    rows, labels = blobs(120, 6, 0.01, 1)
    rows *= np.random.default_rng(0).uniform(0.1, 10, (120, 1))
    for form in (labels, (labels + 2**53).tolist(), torch.from_numpy(labels)):
        assert clustering_metrics(rows, form) == pytest.approx({"nmi": 1, "f1": 1, "ami": 1})


def test_small_classes_raise_no_warning_of_scikit_learn() -> None:
    rows, _ = blobs(30, 30, 0.1, 0)
    assert clustering_metrics(rows, list(range(20)) + list(range(10)))["nmi"] > 0


def test_no_pair_of_either_kind_is_a_perfect_f1() -> None:
    assert clustering_metrics(np.eye(3), [0, 1, 2])["f1"] == 1


def test_a_sampled_start_is_seeded_and_ends_where_every_row_is_with_its_nearest_center() -> None:
    rows, labels = blobs(300, 6, 0.02, 0)
    found = kmeans(rows, 6, start="sample", restarts=20, tolerance=0)
    assert found.converged
    assert normalized_mutual_info_score(labels, found.assignment) == pytest.approx(1)
    once, again, other = (kmeans(rows, 6, start="sample", seed=seed, max_iterations=1) for seed in (3, 3, 4))
    assert torch.equal(once.centers, again.centers)
    assert not torch.equal(once.centers, other.centers)


def test_a_sampled_start_among_copies_leaves_no_center_without_use() -> None:
    rows = np.arange(5.0)[:, None].repeat(20, axis=0)
    assert kmeans(rows, 5, start="sample", tolerance=0).inertia == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_partitions_are_measured_by_enumerated_pairs_and_scikit_learn_with_noise_rows_apart(seed: int, c: int) -> None:
    random = np.random.default_rng(seed)
    classes, clusters = random.integers(0, c, 40) + 2**60, random.integers(-1, c, 40)
    found = partition_metrics(classes, clusters)
    apart = [int(cluster) if cluster >= 0 else -row - 2 for row, cluster in enumerate(clusters)]
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(classes, apart))
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(classes, apart))
    assert found["ari"] == pytest.approx(adjusted_rand_score(classes, apart))
    if c > 1:
        assert found["f1"] == pytest.approx(pairwise_f1(classes.tolist(), apart))


def test_equal_partitions_are_perfect_whatever_their_names() -> None:
    for classes in ([3, 3, 3], [1, 2, 3], [1, 1, 2, 2]):
        renamed = [-5 * label - 7 for label in classes]
        assert partition_metrics(classes, renamed) == pytest.approx({"nmi": 1, "f1": 1, "ami": 1, "ari": 1})


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
@given(seed=st.integers(0, 10**6), similarity=st.floats(-0.9, 0.95))
def test_agglomeration_joins_what_a_plain_loop_joins(linkage: str, seed: int, similarity: float) -> None:
    rows = np.random.default_rng(seed).normal(size=(14, 3))
    groups = joined(rows.tolist(), linkage, similarity)
    found = agglomerative(rows, similarity=similarity, linkage=linkage)
    assert partition_metrics(groups, found)["ari"] == 1
    by_number = agglomerative(rows, k=len(set(groups)), linkage=linkage)
    assert partition_metrics(by_number, found)["ari"] == 1


def test_a_similarity_of_just_the_bound_is_joined() -> None:
    assert agglomerative(np.array([[1.0, 0.0], [0.0, 1.0]]), similarity=0.0).tolist() == [0, 0]
    assert agglomerative(np.ones((1, 2)), k=1).tolist() == [0]
    assert len(agglomerative(np.eye(3), similarity=0.1).unique()) == 3


def test_dense_groups_are_found_and_the_rest_is_noise() -> None:
    labels = np.arange(90) % 3
    rows = np.array([1.0, 0, 0, 0]) + 0.3 * np.eye(4)[labels + 1] + np.random.default_rng(0).normal(0, 0.01, (90, 4))
    stray = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, -1]])
    found = hdbscan(torch.from_numpy(np.concatenate([rows, stray])).half(), min_cluster_size=10)
    assert partition_metrics(labels, found[:90])["ari"] == pytest.approx(1)
    assert found[90:].tolist() == [-1] * 4


def test_communities_are_the_groups_that_have_their_neighbours_in_themselves() -> None:
    rows, labels = blobs(120, 5, 0.1, 0)
    found = louvain(torch.from_numpy(rows).half(), neighbours=23)  # all of its group
    assert partition_metrics(labels, found)["ari"] == pytest.approx(1)
    assert louvain(rows, neighbours=5, seed=3).equal(louvain(rows, neighbours=5, seed=3))
    assert louvain(np.ones((1, 2))).tolist() == [-1]
    lonely = np.array([[1.0, 0.0, 0.0], [0.99, 0.1, 0.0], [0.0, 0.1, 1.0]])  # no row has the last one as its neighbour
    assert louvain(lonely, neighbours=1).tolist() == [0, 0, -1]
    assert louvain(np.ones((3, 2)), neighbours=50).tolist() == [0, 0, 0]


def test_no_single_row_would_be_better_in_another_community() -> None:
    """By the formula of the modularity, written out."""
    rows, _ = blobs(90, 6, 0.8, 1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    table = np.maximum(unit @ unit.T, 1e-3)
    np.fill_diagonal(table, -np.inf)
    near = table >= -np.sort(-table, axis=1)[:, 9:10]
    weights = np.where(near & near.T, table, 0)

    def modularity(found: np.ndarray) -> float:
        degrees, total = weights.sum(axis=1), weights.sum()
        same = found[:, None] == found[None, :]
        return float(((weights - np.outer(degrees, degrees) / total) * same).sum() / total)

    found = louvain(rows).numpy()
    found[found < 0] = 100 + np.arange((found < 0).sum())  # each alone, and without an edge
    single = [modularity(np.where(np.arange(90) == row, other, found)) for row in range(0, 90, 9) for other in range(6)]
    assert modularity(found) > 0.3
    assert modularity(found) >= max(single) - 1e-3
    assert modularity(found) > modularity(np.random.default_rng(0).permutation(found)) + 0.2


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_the_silhouette_is_that_of_scikit_learn_without_the_noise(seed: int, c: int) -> None:
    random = np.random.default_rng(seed)
    rows, clusters = random.standard_normal((40, 4)), random.integers(-1, c, 40)
    clusters[:c] = np.arange(c)
    kept = clusters >= 0
    expected = silhouette_score(rows[kept], clusters[kept], metric="cosine")
    assert silhouette(rows, clusters) == pytest.approx(expected, abs=1e-9)
    assert silhouette(rows, np.zeros(40, dtype=int)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: louvain(np.eye(3), neighbours=0), "neighbours is 0"),
        (lambda: silhouette(np.eye(3), [0, 1]), "clusters has 2 entries"),
        (lambda: agglomerative(np.ones((20_001, 1)), k=2), "20001 rows, .* would need 10 GB for the distances"),
        (lambda: agglomerative(np.eye(3)), "pass one of similarity and k"),
        (lambda: agglomerative(np.eye(3), k=2, similarity=0.5), "pass one of similarity and k"),
        (lambda: agglomerative(np.eye(3), k=4), "k is 4 but embeddings has 3 rows"),
        (lambda: agglomerative(np.eye(3), similarity=1.5), "similarity is 1.5"),
        (lambda: agglomerative(np.eye(3), similarity=float("nan")), "similarity is nan"),
        (lambda: agglomerative(np.eye(3), k=1, linkage="averge"), "did you mean 'average'"),
        (lambda: hdbscan(np.eye(3), min_cluster_size=1), "min_cluster_size is 1; pass a whole number of at least 2"),
        (lambda: hdbscan(np.eye(3), min_cluster_size=4), "min_cluster_size is 4 and min_samples 4 but"),
        (lambda: hdbscan(np.eye(3), min_cluster_size=2, min_samples=9), "min_samples 9 but embeddings has 3 rows"),
        (lambda: partition_metrics([1, 2], [1]), "clusters has 1 entries but classes has 2 rows"),
        (lambda: partition_metrics([], []), r"classes is \[\]; pass one label per row"),
        (lambda: partition_metrics(5, [1]), "classes is 5"),  # type: ignore[arg-type]
        (lambda: kmeans(np.eye(3), 2, start="random"), "there is no start named 'random'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_clustered_is_told_in_one_sentence(call: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (4, {}, r"k is 4 but embeddings has 3 rows"),
        (0, {}, r"k is 0"),
        (2, {"restarts": 0}, r"restarts is 0"),
        (2, {"max_iterations": 0}, r"max_iterations is 0"),
        (2, {"tolerance": float("nan")}, r"tolerance is nan"),
        (2, {"tolerance": -1.0}, r"tolerance is -1.0"),
    ],
)
def test_bad_options_are_told_in_one_sentence(k: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        kmeans(np.eye(3), k, **options)  # type: ignore[arg-type]


def test_rows_whose_squares_overflow_are_told() -> None:
    with pytest.raises(InvalidInput, match=r"leave the range of torch.float32; divide"):
        kmeans(np.eye(3, dtype=np.float32) * 1e30, 2)


def test_labels_that_do_not_fit_are_told() -> None:
    with pytest.raises(InvalidInput, match="labels has 2 entries but embeddings has 3 rows"):
        clustering_metrics(np.eye(3), [0, 1])


@pytest.mark.parametrize(("seed", "kind"), [(-1, InvalidInput), (1.5, InvalidType), (True, InvalidType)])
def test_a_seed_that_is_none_is_a_sentence(seed: Any, kind: type[Exception]) -> None:
    rows, labels = np.eye(6), np.repeat([0, 1], 3)
    with pytest.raises(kind, match=r"seed is .*; pass a whole number of at least 0"):
        kmeans(rows, 2, seed=seed)
    with pytest.raises(kind, match="seed is"):
        verification(rows, labels, sample=3, seed=seed)
