from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.ranks import COUNTED, column_ranks, largest
from embedding_expansion.retrieval.search import block_rows, nearest

from .oracles import neighbours


def small_integers(rows: int, columns: int, seed: int) -> np.ndarray:
    """Rows whose inner products are exact in any order of summation, with many ties and many equal rows."""
    return np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 300), st.integers(1, 5), st.integers(1, 9))
def test_neighbours_are_those_of_a_plain_loop_with_ties_by_the_smaller_index(
    seed: int, q: int, g: int, d: int, k: int
) -> None:
    queries, gallery = small_integers(q, d, seed), small_integers(g, d, seed + 1)
    similarities, indices = nearest(queries, gallery, k)
    assert indices.tolist() == neighbours(queries.tolist(), gallery.tolist(), k)
    found = indices >= 0
    expected = (torch.from_numpy(queries) @ torch.from_numpy(gallery).T).gather(1, indices.clamp(min=0))
    assert torch.equal(similarities[found], expected[found])
    assert bool((similarities[~found] == -torch.inf).all())


@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 25))
def test_the_chunk_changes_nothing(seed: int, chunk: int, k: int) -> None:
    rows = small_integers(61, 4, seed)
    whole, parts = nearest(rows, rows, k), nearest(rows, rows, k, chunk=chunk)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize(("q", "g", "d"), [(2, 77, 33), (7, 1001, 128), (1, 100, 64), (5, 8195, 20)])
def test_equal_gallery_rows_tie_although_a_matrix_product_rounds_differently_at_its_edges(
    q: int, g: int, d: int
) -> None:
    gallery = torch.nn.functional.normalize(torch.randn(1, d)).repeat(g, 1)
    similarities, indices = nearest(torch.randn(q, d), gallery, g)
    assert torch.equal(indices, torch.arange(g).expand(q, g))
    assert bool((similarities == similarities[:, :1]).all())


def test_copies_among_other_rows_tie_and_minus_zero_is_zero() -> None:
    gallery = torch.randn(500, 19)
    gallery[:, 0] = 0
    gallery[[3, 250, 499]] = gallery[3].clone()
    gallery[250, 0] = -0.0
    similarities, indices = nearest(gallery[3:4], gallery, 5)
    assert indices[0, :3].tolist() == [3, 250, 499]
    assert len(similarities[0, :3].unique()) == 1


@given(st.integers(0, 10**6), st.sampled_from([64, 128, 1024, 4096]), st.integers(1, 64), st.integers(1, 50))
def test_the_largest_entries_are_those_of_a_stable_sort(seed: int, width: int, k: int, values: int) -> None:
    table = torch.from_numpy(np.random.default_rng(seed).integers(0, values, (9, width)).astype(np.float32))
    table[0], table[1, 5:] = 7, -torch.inf
    expected = table.sort(dim=1, descending=True, stable=True)
    found, columns = largest(table, k)
    assert torch.equal(found, expected.values[:, :k])
    assert torch.equal(columns, expected.indices[:, :k])


@given(st.integers(0, 10**6), st.integers(1, 90), st.sampled_from([1, 8, COUNTED + 9]), st.integers(1, 30))
def test_the_places_of_columns_are_those_in_a_stable_sort(seed: int, width: int, most: int, values: int) -> None:
    random = np.random.default_rng(seed)
    table = torch.from_numpy(random.integers(0, values, (7, width)).astype(np.float32))
    wanted, expected = torch.full((7, most), -1), []
    for row, order in enumerate(table.sort(dim=1, descending=True, stable=True).indices.tolist()):
        columns = random.choice(width, random.integers(1, min(most, width) + 1), replace=False).tolist()
        wanted[row, : len(columns)] = torch.tensor(columns)
        expected.append([1 + order.index(column) for column in columns] + [0] * (most - len(columns)))
    rows = torch.from_numpy(random.permutation(7))[:5]
    assert column_ranks(table, rows, wanted[rows]).tolist() == [expected[row] for row in rows.tolist()]


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_a_query_never_finds_the_row_it_excludes(seed: int, k: int) -> None:
    rows = small_integers(20, 3, seed)
    exclude = np.random.default_rng(seed).integers(-1, 20, 20)
    indices = nearest(rows, rows, k, exclude=exclude, chunk=7)[1]
    assert indices.tolist() == neighbours(rows.tolist(), rows.tolist(), k, exclude.tolist())


def test_places_without_a_candidate_are_minus_one_and_minus_infinity() -> None:
    similarities, indices = nearest(np.eye(2), np.eye(2), 4, exclude=[0, -1])
    assert indices.tolist() == [[1, -1, -1, -1], [1, 0, -1, -1]]
    assert similarities[0, 1:].tolist() == [-torch.inf] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage_is_multiplied_in_float32(dtype: torch.dtype) -> None:
    queries, gallery = torch.randn(11, 48).to(dtype), torch.randn(203, 48).to(dtype)
    similarities, indices = nearest(queries, gallery, 6)
    expected, places = (queries.double() @ gallery.double().T).sort(dim=1, descending=True)
    assert similarities.dtype == torch.float32
    assert torch.equal(indices, places[:, :6])
    torch.testing.assert_close(similarities.double(), expected[:, :6], rtol=1e-6, atol=1e-5)


def test_autocast_does_not_reach_the_product() -> None:
    rows = torch.randn(50, 16)
    expected = nearest(rows, rows, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest(rows, rows, 3)
    assert torch.equal(found[0], expected[0])


def test_float64_stays_float64_and_numpy_equals_torch() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 8))
    rows.flags.writeable = False
    from_numpy, from_torch = nearest(rows, rows, 3), nearest(torch.tensor(rows), torch.tensor(rows), 3)
    assert from_numpy[0].dtype == torch.float64
    assert torch.equal(from_numpy[0], from_torch[0])
    assert torch.equal(from_numpy[1], from_torch[1])


def test_strided_rows_and_rows_with_a_gradient_are_read_as_they_are() -> None:
    rows = torch.randn(8, 30, requires_grad=True)
    similarities, indices = nearest(rows.T, rows.T, 4)
    expected = nearest(rows.detach().T.contiguous(), rows.detach().T.contiguous(), 4)
    assert not similarities.requires_grad
    assert torch.equal(indices, expected[1])


@given(st.integers(1, 10**8), st.integers(1, 10**6))
def test_the_default_chunk_bounds_the_table_and_the_lists(g: int, k: int) -> None:
    rows = block_rows(g, k, torch.float32)
    assert rows == 1 or (rows * g * 4 <= 2**28 and rows * min(k, g) <= 2**22)
    assert 1 <= rows <= 1024


def test_a_tie_between_the_last_place_and_the_next_leaves_the_order_before_it() -> None:
    indices = nearest(np.ones((1, 1)), np.array([[1.0], [2.0], [3.0], [1.0]]), 3)[1]
    assert indices.tolist() == [[2, 1, 0]]


ROWS = np.ones((3, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ROWS, np.ones((3, 4)), 1), r"queries has 2 columns but gallery has 4"),
        ((ROWS[:0], ROWS, 1), r"queries has the shape \(0, 2\)"),
        ((ROWS, ROWS[0], 1), r"gallery has the shape \(2,\)"),
        (
            (ROWS, np.array([[1, 0], [np.nan, 0], [np.inf, 0]]), 1),
            r"gallery has NaN .* 2 of 3 rows, the first is row 1",
        ),
        ((ROWS, ROWS, 0), r"k is 0; pass a whole number"),
        ((ROWS * 1e30, ROWS * 1e30, 1), r"overflow torch.float32; normalise"),
    ],
)
def test_bad_input_is_told_in_one_sentence(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        nearest(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("exclude", [[0, 1], [0, 1, 3], [-2, 0, 0], [0.0, 1.0, 2.0], [[0, 1, 2]], [True, False, True]])
def test_an_excluded_row_that_is_no_gallery_row_is_an_error(exclude: list[int]) -> None:
    with pytest.raises(InvalidInput, match="exclude has"):
        nearest(ROWS, ROWS, 1, exclude=exclude)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0]], ROWS, 1), r"queries is a list"),
        ((ROWS, ROWS.astype(int), 1), r"gallery has the type int64"),
        ((ROWS, ROWS, 1.5), r"k is 1.5"),
        ((ROWS, ROWS, True), r"k is True"),
    ],
)
def test_an_object_of_the_wrong_kind_is_a_type_error(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InvalidType, match=message):
        nearest(*arguments)  # type: ignore[arg-type]
