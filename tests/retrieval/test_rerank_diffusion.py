from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval import native
from embedding_expansion.retrieval.rerank import graph_diffusion as module
from embedding_expansion.retrieval.rerank.graph_diffusion import diffusion
from embedding_expansion.retrieval.search import nearest

from .rerank_oracles import diffused, unit

EXACT: dict[str, Any] = {"tolerance": 1e-14, "max_iterations": 500}


def rows(n: int, d: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(3, d))[random.integers(0, 3, n)] + 0.6 * random.normal(size=(n, d))


@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(1, 18),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([0.0, 0.7, 0.99]),
)
def test_values_and_order_are_those_of_a_dense_solver(
    seed: int, q: int, g: int, k: int, query_k: int, gamma: float, alpha: float
) -> None:
    queries, gallery = rows(q, 4, seed), rows(g, 4, seed + 1)
    exclude = np.random.default_rng(seed).integers(-1, g, q)
    found = diffusion(queries, gallery, 8, k=k, query_k=query_k, gamma=gamma, alpha=alpha, exclude=exclude, **EXACT)
    expected = diffused(queries.tolist(), gallery.tolist(), k, query_k, gamma, alpha, exclude.tolist())
    cosines = np.array(unit(queries.tolist())) @ np.array(unit(gallery.tolist())).T
    for values, indices, f, cosine, own in zip(
        *(part.tolist() for part in found), expected, cosines, exclude, strict=True
    ):
        others = [j for j in range(g) if j != own]
        listed = [j for j in indices if j >= 0]
        assert len(set(listed)) == len(listed) == min(8, len(others))
        assert own not in listed
        np.testing.assert_allclose(values[: len(listed)], sorted(f[others], reverse=True)[:8], atol=1e-9)
        np.testing.assert_allclose(f[listed], sorted(f[others], reverse=True)[:8], atol=1e-9)
        unreached = [j for j in listed if f[j] == 0]
        assert unreached == sorted((j for j in others if f[j] == 0), key=lambda j: (-cosine[j], j))[: len(unreached)]


def test_without_steps_the_nearest_rows_stay_first() -> None:
    points = rows(50, 5, 1)
    expected = nearest(np.array(unit(points.tolist())), np.array(unit(points.tolist())), 12, exclude=range(50))[1]
    assert torch.equal(diffusion(points, points, 12, alpha=0.0, query_k=6, exclude=range(50))[1], expected)


def test_a_chain_is_followed_past_rows_that_are_nearer() -> None:
    angles = np.array([0.0, 0.3, 0.6, 0.9, 1.2, -0.7, -0.72, -0.74])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert 5 in nearest(points[:1], points, 3, exclude=[0])[1][0].tolist()
    found = diffusion(points[:1], points, 7, k=2, query_k=1, exclude=[0])[1][0].tolist()
    assert set(found[:4]) == {1, 2, 3, 4}
    assert found[4:] == [5, 6, 7]  # no path leads there: by cosine


def test_twenty_steps_come_near_the_solution_and_more_come_nearer() -> None:
    points = rows(120, 6, 4)
    exact = diffused(points.tolist(), points.tolist(), 6, 10, 3.0, 0.99, range(120))
    errors = []
    for steps in (5, 20, 80):
        values, indices = diffusion(points, points, 10, k=6, max_iterations=steps, exclude=range(120))
        errors.append(float(np.abs(values.numpy() - np.take_along_axis(exact, indices.numpy(), 1)).max()))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 1e-6


def test_each_list_is_the_same_alone_and_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    points, queries = rows(60, 5, 2), rows(9, 5, 3)
    together = diffusion(queries, points, 10, k=8, **EXACT)
    alone = [diffusion(query[None], points, 10, k=8, **EXACT) for query in queries]
    assert torch.equal(together[1], torch.cat([found[1] for found in alone]))
    monkeypatch.setattr(module, "TABLE_BYTES", module.TABLES * 8 * 60 * 4)
    pieces = diffusion(queries, points, 10, k=8, chunk=7, **EXACT)
    assert torch.equal(together[1], pieces[1])
    assert torch.allclose(together[0], pieces[0], atol=1e-12)


@pytest.mark.parametrize("queries", [1, 8, 70])
def test_the_solver_in_c_walks_as_the_one_without(queries: int) -> None:
    if not native.available(torch.device("cpu")):
        pytest.skip("installed without the native kernels")
    points = rows(150, 6, 7)
    found = diffusion(points[:queries], points, 20, k=6, exclude=range(queries))
    with native.disabled():
        expected = diffusion(points[:queries], points, 20, k=6, exclude=range(queries))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-12)
    assert torch.equal(found[1], expected[1])


def test_turning_and_scaling_changes_nothing_and_shorter_lists_begin_alike() -> None:
    points = rows(40, 5, 6)
    turn = np.linalg.qr(rows(5, 5, 3))[0]
    long, short = (diffusion(points, points, top, k=5, exclude=range(40), **EXACT)[1] for top in (39, 6))
    assert torch.equal(long[:, :6], short)
    assert torch.equal(diffusion(2 * points @ turn, points @ turn, 6, k=5, exclude=range(40), **EXACT)[1], short)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_copies_of_one_row_are_ranked_by_their_index(n: int) -> None:
    points = np.ones((n, 3), dtype=np.float32)
    indices = diffusion(points, points, 2, query_k=1, alpha=0.0, exclude=range(n))[1]
    others = [[j for j in range(n) if j != i][:2] for i in range(n)]
    assert indices.tolist() == [found + [-1] * (2 - len(found)) for found in others]


def test_rows_that_point_away_have_no_edge_and_no_nan() -> None:
    points = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    values, indices = diffusion(points, points, 2, gamma=0.5, exclude=range(3))
    assert indices.tolist() == [[2, 1], [2, 0], [0, 1]]
    assert values.tolist() == [[0.0, 0.0]] * 3


def test_what_cannot_be_used_is_named() -> None:
    points = torch.randn(6, 3)
    for options, said in (
        ({"k": 0}, "k is 0"),
        ({"query_k": 0}, "query_k is 0"),
        ({"alpha": 1.0}, "alpha is 1, so the walk would never end"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"gamma": -1.0}, "gamma is -1.0"),
        ({"tolerance": -1.0}, "tolerance is -1.0"),
        ({"max_iterations": 0}, "max_iterations is 0"),
    ):
        with pytest.raises(InvalidInput, match=said):
            diffusion(points, points, 3, **options)  # type: ignore[arg-type]
