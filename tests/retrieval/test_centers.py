"""The nearest center is the nearest, also where bytes rule out the others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.retrieval import centers, native, quantization
from embedding_expansion.retrieval.centers import nearest_center

CPU = torch.device("cpu")
by_bytes = pytest.mark.usefixtures("products")


@pytest.fixture(params=["by the processor", "plain"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of bytes, by instructions that not every processor has, and by whole numbers, which each has."""
    if not native.available(CPU):
        pytest.skip("installed without the native kernels")
    if request.param == "plain":
        monkeypatch.setattr(native, "multiplies_bytes", lambda: True)
        monkeypatch.setattr(quantization, "_products_are_exact", lambda: True)
        monkeypatch.setattr(torch, "_int_mm", lambda left, right, out: torch.mm(left.int(), right.int(), out=out))
    elif not native.multiplies_bytes():
        pytest.skip("this processor does not multiply bytes")


def drawn(n: int, k: int, d: int, seed: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = scale * torch.randn(n, d, generator=generator)
    # Some centers are means of a few rows, some rows, and some of them twice.
    means = rows[torch.randint(0, n, (k, 3), generator=generator)].mean(1)
    means[::3] = rows[torch.randint(0, n, (len(means[::3]),), generator=generator)]
    return rows, means


def plain(rows: torch.Tensor, means: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In double precision, from the differences; of equal distances argmin gives the first."""
    distances = (rows.double().unsqueeze(1) - means.double()).square().sum(2)
    return distances.argmin(1), distances.amin(1)


def agrees(rows: torch.Tensor, means: torch.Tensor) -> None:
    assignment, distances = nearest_center(rows, means)
    first, least = plain(rows, means)
    assert torch.equal(assignment, first)
    torch.testing.assert_close(
        distances.double(), least, rtol=1e-5, atol=1e-12 * float(rows.double().square().sum(1).max())
    )


@by_bytes
@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(256, 300), st.sampled_from([32, 45, 64]))
def test_every_row_goes_to_the_center_that_is_nearest_in_double_precision(seed: int, n: int, k: int, d: int) -> None:
    rows, means = drawn(n, k, d, seed)
    assert centers._bytes_pay(rows, means)
    agrees(rows, means)


@by_bytes
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1e4, 1e8])
def test_the_scale_of_the_rows_changes_nothing(scale: float) -> None:
    agrees(*drawn(300, 700, 40, 0, scale))


@by_bytes
def test_several_blocks_and_one_large_coordinate_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centers, "CACHED_BYTES", 4 * 300 * 32)
    rows, means = drawn(200, 300, 40, 1)
    agrees(rows, means)
    rows[:, 3] *= 20
    means[:, 3] *= 20
    agrees(rows, means)


@by_bytes
def test_where_bytes_rule_out_too_little_products_of_floats_go_on() -> None:
    rows, means = torch.ones(200, 40), torch.ones(300, 40)
    rows[0], means[7] = 0.0, 0.5
    assignment, distances = torch.full((200,), -1), torch.zeros(200)
    assert centers._by_bytes(rows.repeat(100, 1), means, assignment.repeat(100), distances.repeat(100)) < 20_000
    assert nearest_center(rows, means)[0].tolist() == [7] + [0] * 199


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_floats_find_the_same(dtype: torch.dtype) -> None:
    rows, means = (part.to(dtype) for part in drawn(200, 300, 40, 2))
    first, least = plain(rows, means)
    with native.disabled():
        assignment, distances = nearest_center(rows, means)
    assert torch.equal(assignment, first)
    torch.testing.assert_close(distances, least.to(dtype))


def test_rows_beyond_the_range_of_the_bytes_products_are_compared_in_floats() -> None:
    rows, means = drawn(50, 300, 40, 3, scale=1e-12)
    assert not centers._bytes_pay(rows, means)
    assert not centers._bytes_pay(rows.double(), means.double())
