from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.rerank import reciprocal
from embedding_expansion.retrieval.rerank.reciprocal import k_reciprocal
from embedding_expansion.retrieval.search import nearest

from . import rerank_oracles

WEIGHTS = st.sampled_from([0.0, 0.3, 1.0])


def rows(n: int, d: int, seed: int) -> np.ndarray:
    """In groups, so that neighbours are shared."""
    random = np.random.default_rng(seed)
    return random.normal(size=(3, d))[random.integers(0, 3, n)] + 0.6 * random.normal(size=(n, d))


def check(found: tuple[torch.Tensor, torch.Tensor], table: list[list[float]], own: list[int], g: int) -> None:
    """Each list is the gallery in ascending order of the table, cut off."""
    for distances, indices, row, itself in zip(*(part.tolist() for part in found), table, own, strict=True):
        candidates = sorted(row[j] for j in range(g) if j != itself)[: len(distances)]
        ends = [j for j in indices if j >= 0]
        assert len(ends) == len(candidates) == len(set(ends))
        assert itself not in ends
        np.testing.assert_allclose(distances[: len(ends)], candidates, atol=1e-10)
        np.testing.assert_allclose([row[j] for j in ends], candidates, atol=1e-10)
        assert distances[len(ends) :] == [np.inf] * (len(distances) - len(ends))


@given(st.integers(0, 10**6), st.integers(3, 26), st.integers(1, 9), st.integers(1, 6), WEIGHTS, st.integers(1, 30))
def test_leave_one_out_is_ranked_as_by_the_plain_loops(
    seed: int, n: int, k1: int, k2: int, weight: float, top: int
) -> None:
    points = rows(n, 4, seed)
    found = k_reciprocal(points, points, top, k1=k1, k2=k2, distance_weight=weight, exclude=range(n))
    check(found, rerank_oracles.k_reciprocal(points.tolist(), k1, k2, weight), list(range(n)), n)


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(2, 20), st.integers(1, 9), st.integers(1, 6), WEIGHTS)
def test_queries_and_gallery_are_ranked_as_by_the_plain_loops(
    seed: int, q: int, g: int, k1: int, k2: int, weight: float
) -> None:
    queries, gallery = rows(q, 4, seed), rows(g, 4, seed + 1)
    table = rerank_oracles.k_reciprocal([*gallery.tolist(), *queries.tolist()], k1, k2, weight)[g:]
    found = k_reciprocal(queries, gallery, 7, k1=k1, k2=k2, distance_weight=weight)
    check(found, table, [-1] * q, g)


def test_a_query_that_is_in_the_gallery_stands_in_its_place_there() -> None:
    gallery, queries = rows(14, 4, 5), rows(4, 4, 6)
    own = [3, -1, 0, -1]
    points = np.concatenate([gallery, queries[[1, 3]]])
    points[[3, 0]] = queries[[0, 2]]
    table = rerank_oracles.k_reciprocal(points.tolist(), 5, 3, 0.3)
    found = k_reciprocal(queries, gallery, 20, k1=5, k2=3, exclude=own)
    check(found, [table[3], table[14], table[0], table[15]], own, 14)


def test_the_distance_alone_gives_the_order_of_nearest() -> None:
    points = rows(60, 5, 1)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected = nearest(unit, unit, 12, exclude=range(60))[1]
    assert torch.equal(k_reciprocal(points, points, 12, distance_weight=1.0, exclude=range(60))[1], expected)


def test_turning_and_scaling_changes_nothing_and_lists_of_other_lengths_begin_alike() -> None:
    points = rows(40, 5, 2)
    turn = np.linalg.qr(rows(5, 5, 3))[0]
    long, short = (k_reciprocal(points, points, top, k1=8, exclude=range(40))[1] for top in (39, 6))
    assert torch.equal(long[:, :6], short)
    assert torch.equal(k_reciprocal(3 * points @ turn, points @ turn, 6, k1=8, exclude=range(40))[1], short)


def test_pieces_of_bounded_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    points, queries = rows(50, 5, 2), rows(11, 5, 3)
    alone = k_reciprocal(points, points, 9, k1=8, exclude=range(50))
    apart = k_reciprocal(queries, points, 9, k1=8)
    monkeypatch.setattr(reciprocal, "PIECE", 7)
    monkeypatch.setattr(reciprocal, "SHARED_ENTRIES", 300)
    for whole, parts in (
        (alone, k_reciprocal(points, points, 9, k1=8, exclude=range(50), chunk=6)),
        (apart, k_reciprocal(queries, points, 9, k1=8, chunk=3)),
    ):
        assert torch.equal(whole[1], parts[1])
        assert torch.allclose(whole[0], parts[0], atol=1e-12)


def test_an_image_between_two_groups_goes_to_the_one_whose_neighbours_have_it_too() -> None:
    # Row 0 is a little nearer to row 4 than to rows 1 to 3, but row 4 has nearer rows than row 0, and they have not.
    angles = np.array([0.0, 0.22, 0.24, 0.26, -0.2, -0.25, -0.26, -0.27, -0.28, -0.29])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert k_reciprocal(points, points, 1, distance_weight=1.0, exclude=range(10))[1][0].item() == 4
    found = k_reciprocal(points, points, 3, k1=4, k2=1, distance_weight=0.0, exclude=range(10))[1][0]
    assert set(found.tolist()) == {1, 2, 3}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_copies_of_one_row_are_ranked_by_their_index(n: int) -> None:
    points = np.ones((n, 3), dtype=np.float32)
    distances, indices = k_reciprocal(points, points, 2, exclude=range(n))
    others = [[j for j in range(n) if j != i][:2] for i in range(n)]
    assert indices.tolist() == [found + [-1] * (2 - len(found)) for found in others]
    assert bool(distances[indices >= 0].isfinite().all())


def test_what_cannot_be_used_is_named() -> None:
    points = torch.randn(6, 3)
    for options, said in (
        ({"k1": 0}, "k1 is 0"),
        ({"k2": 0}, "k2 is 0"),
        ({"distance_weight": 1.5}, "distance_weight is 1.5; pass a number from 0 to 1"),
        ({"exclude": [1, 1, -1, -1, -1, -1]}, "same gallery row for several queries"),
        ({"exclude": [6, 1, -1, -1, -1, -1]}, "exclude has indices from -1 to 6"),
    ):
        with pytest.raises(InvalidInput, match=said):
            k_reciprocal(points, points, 3, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="top is 0"):
        k_reciprocal(points, points, 0)
