"""Limits that the documentation promises: what happens exactly at one, just below and just above."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval import clustering
from embedding_expansion.retrieval.arrays import as_cosine, as_cosines, least_reaching
from embedding_expansion.retrieval.clustering import agglomerative
from embedding_expansion.retrieval.duplicates import near_duplicates
from embedding_expansion.retrieval.kmeans import kmeans
from embedding_expansion.retrieval.metrics import retrieval_by_class, retrieval_metrics, retrieval_values
from embedding_expansion.retrieval.rerank import graph_diffusion
from embedding_expansion.retrieval.roc import verification_of_pairs
from embedding_expansion.retrieval.threshold import Threshold

BELOW, ABOVE = float(np.nextafter(0.999999, 0)), float(np.nextafter(0.999999, 2))


@pytest.mark.parametrize(("cosine", "one"), [(BELOW, False), (0.999999, True), (ABOVE, True), (1.000001, True)])
def test_a_cosine_counts_as_1_from_0_999999_on_everywhere(cosine: float, one: bool) -> None:
    meant = 1.0 if one else cosine
    assert (as_cosine(cosine), as_cosine(-cosine)) == (meant, -meant)
    assert as_cosines(np.array([cosine, -cosine])).tolist() == [meant, -meant]
    assert (cosine >= least_reaching(1)) is one
    threshold = Threshold(1.0, "same or not", "precision", 0.9, 0.9, 0.9, 1, 1)
    assert bool(threshold.accepts(np.array([cosine]))[0]) is one


def test_a_similarity_of_just_the_threshold_is_accepted() -> None:
    threshold = Threshold(0.7, "same or not", "precision", 0.9, 0.9, 0.9, 1, 1)
    similarities = np.array([np.nextafter(0.7, 0), 0.7, np.nextafter(0.7, 1)])
    assert threshold.accepts(similarities).tolist() == [False, True, True]


def test_as_many_pairs_are_kept_as_the_page_says() -> None:
    assert inspect.signature(near_duplicates).parameters["most_pairs"].default == 100_000


def test_a_rate_of_just_what_is_asked_for_is_kept() -> None:
    curve = verification_of_pairs(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, False, True]))
    assert curve.false_accepts.tolist() == [0, 0.5, 0.5, 1, 1]
    rates = [np.nextafter(0.5, 0), 0.5, np.nextafter(0.5, 1)]
    assert [curve.tar_at(rate) for rate in rates] == [1 / 3, 2 / 3, 2 / 3]
    assert [curve.threshold(false_alarm_rate=rate).value for rate in rates] == [0.9, 0.7, 0.7]
    for far in (np.nextafter(0, -1), np.nextafter(1, 2)):
        with pytest.raises(InvalidInput, match="far is"):
            curve.tar_at(float(far))
    assert (curve.tar_at(0.0), curve.tar_at(1.0)) == (1 / 3, 1)
    precise = [np.nextafter(2 / 3, 0), 2 / 3, np.nextafter(2 / 3, 1)]  # 2 of the 3 pairs from 0.7 on
    assert [curve.threshold(precision=share).value for share in precise] == [0.7, 0.7, 0.9]


def test_recall_counts_the_row_at_place_k_and_none_behind_it() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])  # row 0 finds row 3 at place 3
    rows, labels = torch.stack([angles.cos(), angles.sin()], dim=1), [7, 1, 2, 7, 3]
    found = retrieval_values(rows, labels, (2, 3, 4), precision_at=(2, 3), more=("mrr",))
    assert [found[f"recall_at_{k}"][0] for k in (2, 3, 4)] == [0, 1, 1]
    assert [found[f"precision_at_{k}"][0] for k in (2, 3)] == [0, 1 / 3]
    assert found["mrr"][0] == 1 / 3


def test_r_precision_looks_at_as_many_places_as_there_are_rows_to_find() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    at_the_last, behind = retrieval_values(rows, [0, 1, 0, 0]), retrieval_values(rows, [0, 1, 1, 0])
    assert (at_the_last["r_precision"][0], at_the_last["map_at_r"][0]) == (0.5, 0.25)  # places 2 and 3 of R = 2
    assert (behind["r_precision"][0], behind["map_at_r"][0]) == (0, 0)  # place 3 of R = 1


def test_recall_is_measured_at_1_2_4_and_8_by_default() -> None:
    rows, labels = np.eye(4)[[0, 0, 1, 1]], [0, 0, 1, 1]
    documented = ["recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8"]
    by_class = retrieval_by_class(rows, labels).measures
    for found in (retrieval_metrics(rows, labels), retrieval_values(rows, labels), by_class):
        assert [name for name in found if name.startswith("recall")] == documented


def test_places_and_chunks_are_of_1_or_more() -> None:
    rows, labels = np.eye(4), [0, 0, 1, 1]
    retrieval_metrics(rows, labels, (1,), precision_at=(1,), chunk=1)
    for wrong in ({"ks": (0,)}, {"precision_at": (0,)}, {"chunk": 0}):
        with pytest.raises(InvalidInput, match="of at least 1"):
            retrieval_metrics(rows, labels, **wrong)


def test_k_means_takes_as_many_clusters_as_rows_and_no_more() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3))
    assert kmeans(rows, 5).inertia == pytest.approx(0, abs=1e-12)
    assert kmeans(rows, 1).assignment.tolist() == [0] * 5
    for wrong, said in ((6, "at most as many clusters as rows"), (0, "at least 1")):
        with pytest.raises(InvalidInput, match=said):
            kmeans(rows, wrong)
    for option in ("restarts", "max_iterations"):
        kmeans(rows, 2, **{option: 1})
        with pytest.raises(InvalidInput, match=f"{option} is 0"):
            kmeans(rows, 2, **{option: 0})
    with pytest.raises(InvalidInput, match="tolerance is -5e-324"):
        kmeans(rows, 2, tolerance=-5e-324)


def test_k_means_has_converged_where_the_inertia_falls_by_just_the_tolerance() -> None:
    # Two centers, drawn at rows: after each iteration the inertia is known, and with it by which share it fell.
    rows = np.random.default_rng(1).normal(size=(300, 2))
    inertia = [kmeans(rows, 20, tolerance=0, max_iterations=i).inertia for i in (1, 2, 3)]
    share = 1 - inertia[2] / inertia[1]
    first = 1 - inertia[1] / inertia[0]
    assert 0 < share < first
    stopped = kmeans(rows, 20, tolerance=share * (1 + 1e-9))
    assert (stopped.iterations, stopped.converged, stopped.inertia) == (3, True, inertia[2])
    assert kmeans(rows, 20, tolerance=share * (1 - 1e-9)).iterations > 3


def test_agglomeration_takes_just_as_many_rows_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MOST_ROWS", 6)
    rows = np.random.default_rng(0).normal(size=(7, 3))
    assert len(agglomerative(rows[:6], k=2)) == 6
    with pytest.raises(InvalidInput, match="pass at most 6 rows"):
        agglomerative(rows, k=2)


def test_a_walk_goes_on_with_any_share_below_1() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    diffusion = graph_diffusion.diffusion
    for alpha in (0.0, np.nextafter(1, 0)):
        diffusion(rows[:2], rows[2:], 4, k=3, alpha=float(alpha))
    for alpha in (-5e-324, 1.0, np.nextafter(1, 2)):
        with pytest.raises(InvalidInput, match="alpha is"):
            diffusion(rows[:2], rows[2:], 4, k=3, alpha=float(alpha))
