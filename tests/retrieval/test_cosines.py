"""Thresholds of exactly 1 and -1: equal rows reach 1 wherever similarities are computed, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedding_expansion import Threshold, agglomerative, near_duplicates, open_set, verification
from embedding_expansion.inference.clusters import cluster
from embedding_expansion.retrieval.arrays import as_cosines

DIMENSIONS = [2, 3, 16, 100, 513, 2048]


def with_copies(d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """23 directions, three rows of each: itself, another norm, and from double precision; and which direction it is."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((23, d)) if d > 3 else _apart(d)
    scaled = rows * rng.uniform(1e-3, 1e3, (len(rows), 1))
    all_rows = np.concatenate([rows.astype(np.float32), scaled.astype(np.float32), (rows / 7).astype(np.float32)])
    order = rng.permutation(len(all_rows))
    return all_rows[order], np.tile(np.arange(len(rows)), 3)[order]


def _apart(d: int) -> np.ndarray:
    turns = np.linspace(0, 6, 23)
    return np.stack([np.cos(turns), np.sin(turns), *np.zeros((d - 2, 23))], axis=1)


def groups_of(which: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(np.flatnonzero(which == one).tolist()) for one in np.unique(which)}


@pytest.mark.parametrize("d", DIMENSIONS)
def test_near_duplicates_at_1_are_the_equal_rows(d: int) -> None:
    rows, which = with_copies(d)
    for threshold in (1, 1.0, 0.9999999):
        found = near_duplicates(rows, threshold)
        assert {tuple(group.tolist()) for group in found.groups} == groups_of(which)
        assert found.number_of_pairs == 23 * 3
        assert set(found.similarities.tolist()) == {1.0}


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
def test_clusters_at_1_are_the_equal_rows_and_at_minus_1_there_is_one(d: int, linkage: str) -> None:
    rows, which = with_copies(d)
    assert groups_of(agglomerative(rows, similarity=1, linkage=linkage).numpy()) == groups_of(which)
    both = np.concatenate([rows, -rows])  # opposite ones come out a little beyond -1
    assert len(agglomerative(both, similarity=-1, linkage=linkage).unique()) == 1
    assert len(cluster(rows, similarity=1.0).sizes) == 23


@pytest.mark.parametrize("d", DIMENSIONS)
def test_calibrated_thresholds_of_equal_rows_are_1_and_reached_by_them(d: int) -> None:
    rows, which = with_copies(d)
    pairs = verification(rows, which)
    assert pairs.thresholds.max() == 1.0
    threshold = pairs.threshold(false_alarm_rate=0.0)
    assert (threshold.value, threshold.hit_rate) == (1.0, 1.0)
    is_gallery = np.zeros(len(which), bool)
    is_gallery[np.unique(which, return_index=True)[1][:12]] = True
    queries = open_set(rows, which, is_query=~is_gallery, is_gallery=is_gallery)
    threshold = queries.threshold(false_alarm_rate=0.0)
    assert (threshold.value, threshold.hit_rate) == (1.0, 1.0)
    units = torch.nn.functional.normalize(torch.from_numpy(rows))
    same = torch.from_numpy(which)[:, None] == torch.from_numpy(which)
    assert torch.equal(threshold.accepts(units @ units.T), same)


def test_minus_1_accepts_everything_and_what_is_near_1_is_not_1() -> None:
    values = np.array([-1.0000002, -1, -0.5, 0.999998, 0.9999995, 1, 1.0000002])
    common = ("same or not", "precision", 0.9, 0.9, 0.9, 1, 1)
    assert Threshold(-1.0, *common).accepts(values).all()
    assert Threshold(1.0, *common).accepts(values).tolist() == [False] * 4 + [True] * 3
    assert Threshold(0.999998, *common).accepts(values).tolist() == [False] * 3 + [True] * 4
    assert as_cosines(values).tolist() == [-1, -1, -0.5, 0.999998, 1, 1, 1]
    apart = np.array([[1, 0], [1, 2e-3]])  # a cosine of 1 - 2e-6
    assert len(near_duplicates(apart, 1).groups) == 0
    assert len(near_duplicates(apart, 0.99999).groups) == 1
