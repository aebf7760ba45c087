"""Principal components, against the eigenvectors of the covariance."""

from __future__ import annotations

import numpy as np
import pytest

from embedding_expansion.retrieval.projection import has_neighbours, principal_components


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (2, 3), (30, 1)])
def test_they_are_the_projections_on_the_axes_of_most_variance(n: int, d: int) -> None:
    points = np.random.default_rng(n).standard_normal((n, d)).astype(np.float32) * np.arange(1, d + 1)
    found = principal_components(points, 5)
    assert (found.shape, found.dtype) == ((n, 5), np.float64)
    centred = points.astype(np.float64) - points.astype(np.float64).mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    there = min(5, d, n - 1)
    expected = centred @ axes[:, ::-1][:, :there]
    np.testing.assert_allclose(abs(found[:, :there]), abs(expected), atol=1e-6 * abs(expected).max())
    np.testing.assert_allclose((found**2).sum(axis=0)[:there], variances[::-1][:there], rtol=1e-6)
    np.testing.assert_allclose(found[:, there:], 0, atol=1e-9 * abs(expected).max())


@pytest.mark.parametrize(("n", "d"), [(1, 4), (7, 3), (50, 2)])
def test_of_equal_points_all_are_just_0(n: int, d: int) -> None:
    found = principal_components(np.tile(np.float32([0.1, 0.7, 0.3, 0.9])[:d], (n, 1)))
    assert found.tolist() == [[0.0, 0.0]] * n
    assert not has_neighbours(found)
