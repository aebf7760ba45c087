from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.rerank import whitening as module
from embedding_expansion.retrieval.rerank.whitening import PCAWhitening


def rows(n: int, d: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)) * np.geomspace(5, 0.5, d) + random.normal(size=d)


def unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@given(st.integers(0, 10**6), st.integers(6, 40), st.integers(2, 5), st.integers(1, 5))
def test_rows_are_whitened_as_by_a_singular_value_decomposition(seed: int, n: int, d: int, kept: int) -> None:
    kept = min(kept, d)
    fitted_on, others = rows(n, d, seed), rows(7, d, seed + 1)
    mean = unit(fitted_on).mean(0)
    _, singular, axes = np.linalg.svd(unit(fitted_on) - mean, full_matrices=False)
    coordinates = (unit(others) - mean) @ axes[:kept].T / (singular[:kept] / np.sqrt(n))
    found = PCAWhitening.fit(fitted_on, kept).apply(others).numpy()
    # The sign of an axis is a matter of taste: compare what does not depend on it.
    np.testing.assert_allclose(np.abs(found), np.abs(unit(coordinates)), atol=1e-8)
    np.testing.assert_allclose(found @ found.T, unit(coordinates) @ unit(coordinates).T, atol=1e-8)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.4, 1.0]))
def test_the_axes_are_uncorrelated_and_shrinkage_leaves_some_of_their_variance(seed: int, shrinkage: float) -> None:
    data = rows(60, 5, seed)
    whitening = PCAWhitening.fit(data, shrinkage=shrinkage)
    covariance = np.cov((unit(data) - whitening.mean.numpy()) @ whitening.projection.numpy(), rowvar=False, bias=True)
    variances = np.sort(np.linalg.eigvalsh(np.cov(unit(data), rowvar=False, bias=True)))[::-1]
    expected = variances / ((1 - shrinkage) * variances + shrinkage * variances.mean())
    np.testing.assert_allclose(covariance, np.diag(expected), atol=1e-8)


def test_pca_without_whitening_keeps_the_cosines_to_the_mean() -> None:
    data = rows(30, 4, 3)
    found = PCAWhitening.fit(data, shrinkage=1.0).apply(data).numpy()
    centred = unit(unit(data) - unit(data).mean(0))
    np.testing.assert_allclose(found @ found.T, centred @ centred.T, atol=1e-10)


def test_turned_rows_are_whitened_alike() -> None:
    data, others = rows(40, 4, 1), rows(9, 4, 2)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    plain = PCAWhitening.fit(data).apply(others).numpy()
    turned = PCAWhitening.fit(3 * data @ turn).apply(others @ turn).numpy()
    np.testing.assert_allclose(plain @ plain.T, turned @ turned.T, atol=1e-9)


def test_the_order_of_rows_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(50, 4, 1)
    whole = PCAWhitening.fit(data)
    monkeypatch.setattr(module, "PIECE", 7)
    parts = PCAWhitening.fit(data[::-1])
    assert torch.allclose(whole.projection, parts.projection, atol=1e-9)
    assert torch.allclose(whole.mean, parts.mean, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_fewer_rows_than_columns_give_an_axis_less_than_rows_and_nothing_huge(dtype: type) -> None:
    data = np.random.default_rng(0).normal(size=(10, 64)).astype(dtype)
    whitening = PCAWhitening.fit(data)
    assert whitening.projection.shape == (64, 9)
    assert whitening.apply(data).dtype == torch.float32
    assert float(whitening.projection.abs().max()) < 100
    with pytest.raises(InvalidInput, match="dimensions is 10, but the 10 rows of embeddings vary along 9 axes only"):
        PCAWhitening.fit(data, 10)


def test_columns_that_repeat_others_are_no_axes_of_their_own() -> None:
    data = rows(50, 3, 4).astype(np.float32)
    assert PCAWhitening.fit(np.hstack([data, data])).projection.shape == (6, 3)


def test_a_row_at_the_mean_becomes_zeros() -> None:
    data = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert PCAWhitening.fit(data).apply(np.zeros((1, 2))).tolist() == [[0.0, 0.0]]


def test_it_is_the_same_after_a_file(tmp_path: Path) -> None:
    whitening = PCAWhitening.fit(torch.randn(30, 6), 4)
    np.savez(tmp_path / "whitening.npz", **whitening.to_arrays())
    with np.load(tmp_path / "whitening.npz", allow_pickle=False) as stored:
        again = PCAWhitening.from_arrays(stored)
    others = torch.randn(5, 6)
    assert torch.equal(again.apply(others), whitening.apply(others))


def test_arrays_that_are_no_whitening_are_refused() -> None:
    arrays = PCAWhitening.fit(torch.randn(30, 6), 4).to_arrays()
    with pytest.raises(InvalidInput, match="lack 'projection'"):
        PCAWhitening.from_arrays({"mean": arrays["mean"]})
    with pytest.raises(InvalidInput, match=r"mean has the shape \(5,\) but projection \(6, 4\)"):
        PCAWhitening.from_arrays(arrays | {"mean": np.zeros(5)})
    with pytest.raises(InvalidType, match="projection has the type object"):
        PCAWhitening.from_arrays(arrays | {"projection": np.array([[None]])})


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(InvalidInput, match="the 5 rows of embeddings do not vary"):
        PCAWhitening.fit(torch.ones(5, 3))
    with pytest.raises(InvalidInput, match="shrinkage is 2; pass a number from 0 to 1"):
        PCAWhitening.fit(torch.randn(5, 3), shrinkage=2)
    with pytest.raises(InvalidInput, match="dimensions is 0"):
        PCAWhitening.fit(torch.randn(5, 3), 0)
    with pytest.raises(InvalidInput, match="embeddings has 4 columns but the whitening was fitted on 3"):
        PCAWhitening.fit(torch.randn(5, 3)).apply(torch.randn(2, 4))
