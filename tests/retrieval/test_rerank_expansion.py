from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.rerank import query_expansion
from embedding_expansion.retrieval.rerank.query_expansion import alpha_query_expansion, database_augmentation

from .rerank_oracles import expanded, unit

ALPHAS = st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.3])


def rows(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 12), st.integers(2, 5), st.integers(1, 14), ALPHAS)
def test_queries_are_expanded_as_by_a_plain_loop(seed: int, q: int, g: int, d: int, k: int, alpha: float) -> None:
    queries, gallery = rows(q, d, seed), rows(g, d, seed + 1)
    exclude = np.random.default_rng(seed).integers(-1, g, q)
    found = alpha_query_expansion(queries, gallery, k, alpha, exclude=exclude)
    expected = expanded(queries.tolist(), gallery.tolist(), k, alpha, exclude.tolist())
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 14), ALPHAS)
def test_a_gallery_is_augmented_as_by_a_plain_loop_and_no_row_is_its_own_neighbour(
    seed: int, g: int, k: int, alpha: float
) -> None:
    gallery = rows(g, 3, seed)
    expected = expanded(gallery.tolist(), gallery.tolist(), k, alpha, range(g))
    np.testing.assert_allclose(database_augmentation(gallery, k, alpha).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 2.5, 3.0])
def test_neighbours_that_point_away_change_nothing_and_give_no_nan(alpha: float) -> None:
    queries = np.array([[1.0, 0.0], [0.0, 2.0]])
    found = alpha_query_expansion(queries, -np.abs(rows(5, 2, 0)), 3, alpha)
    np.testing.assert_array_equal(found.numpy(), unit(queries.tolist()))


def test_alpha_0_is_the_plain_mean_also_of_neighbours_with_cosine_0_or_less() -> None:
    found = alpha_query_expansion(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [-0.6, 0.8]]), 2, 0)
    mean = np.array([0.4, 1.8]) / 3
    np.testing.assert_allclose(found.numpy()[0], mean / np.linalg.norm(mean), atol=1e-15)


def test_opposite_rows_and_rows_of_zeros_come_out_as_zeros_not_as_nan() -> None:
    found = alpha_query_expansion(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[-1.0, 0.0]]), 1, 0)
    assert found[0].tolist() == [0.0, 0.0]
    assert alpha_query_expansion(np.zeros((1, 2)), np.array([[-1.0, 0.0]]), 1, 3).tolist() == [[0.0, 0.0]]


@given(st.integers(0, 10**6), ALPHAS)
def test_turning_and_scaling_all_rows_turns_what_comes_out(seed: int, alpha: float) -> None:
    queries, gallery = rows(6, 4, seed), rows(9, 4, seed + 1)
    turn = np.linalg.qr(rows(4, 4, seed + 2))[0]
    plain = alpha_query_expansion(queries, gallery, 3, alpha).numpy()
    turned = alpha_query_expansion(5 * queries @ turn, 0.1 * gallery @ turn, 3, alpha).numpy()
    np.testing.assert_allclose(turned, plain @ turn, atol=1e-12)


def test_pieces_of_bounded_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = torch.randn(50, 8), torch.randn(70, 8)
    whole = alpha_query_expansion(queries, gallery, 5)
    monkeypatch.setattr(query_expansion, "TABLE_BYTES", 5 * 8 * 4 * 7)
    assert torch.allclose(alpha_query_expansion(queries, gallery, 5, chunk=9), whole, atol=1e-6)


def test_half_precision_is_computed_in_float32_and_inputs_stay_as_they_are() -> None:
    queries = torch.randn(4, 8, dtype=torch.float16)
    kept = queries.clone()
    assert alpha_query_expansion(queries, torch.randn(9, 8), 3).dtype == torch.float32
    assert torch.equal(queries, kept)


def test_a_copy_of_the_query_pulls_it_nowhere() -> None:
    gallery = torch.randn(7, 5, dtype=torch.float64)
    found = alpha_query_expansion(gallery[:2], gallery, 1)
    assert torch.allclose(found, torch.nn.functional.normalize(gallery[:2], dim=1), atol=1e-14)


@pytest.mark.parametrize(
    ("k", "alpha", "error", "said"),
    [
        (0, 3.0, InvalidInput, "k is 0"),
        (1.5, 3.0, InvalidType, "k is 1.5"),
        (2, -1.0, InvalidInput, "alpha is -1.0; pass a finite number of at least 0"),
        (2, float("nan"), InvalidInput, "alpha is nan"),
        (2, float("inf"), InvalidInput, "alpha is inf"),
        (2, "3", InvalidType, "alpha is '3'; pass a finite number of at least 0"),
    ],
)
def test_numbers_that_cannot_be_used_are_named(k: int, alpha: float, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        alpha_query_expansion(torch.randn(3, 4), torch.randn(5, 4), k, alpha)
    with pytest.raises(error, match=said):
        database_augmentation(torch.randn(5, 4), k, alpha)


def test_sides_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(InvalidInput, match="queries has 4 columns but gallery has 3"):
        alpha_query_expansion(torch.randn(3, 4), torch.randn(5, 3), 2)
