"""Ranks found by counting are those of a plain loop and of a ranking, whatever ties and wherever tiles end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from embedding_expansion.retrieval import counting, native, quantization
from embedding_expansion.retrieval.inputs import UnitRows, unit_rows
from embedding_expansion.retrieval.metrics import retrieval_values
from embedding_expansion.retrieval.ranks import UNRANKED
from embedding_expansion.retrieval.relevance import relevance
from embedding_expansion.retrieval.task import retrieval_task

from .oracles import measures_of_queries

MORE = {"ks": (1, 4, 30), "more": ("mrr", "map", "ndcg")}
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not native.available(CPU), reason="installed without the native kernels")


@pytest.fixture(autouse=True, params=["floats", "bytes"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the tables are products of. The blocks are small, so that a few rows make several, held in several turns."""
    monkeypatch.setattr(counting, "BLOCK", 40)
    monkeypatch.setattr(counting, "HELD", 2)
    monkeypatch.setattr(quantization, "LEAST_DIMENSIONS", 1)
    monkeypatch.setattr(native, "multiplies_bytes", lambda: request.param == "bytes")
    found: str = request.param
    return found


def axes(n: int, d: int, random: np.random.Generator) -> np.ndarray:
    """Cosines that are exact, and nearly all of which tie."""
    return np.eye(d)[random.integers(0, d, n)] * random.choice([-1.0, 1.0], (n, 1))


def copies(n: int, d: int, random: np.random.Generator) -> np.ndarray:
    """A few directions, many times each: products of equal rows round differently at the edges of a matrix."""
    return random.normal(size=(7, d))[random.integers(0, 7, n)]


def close(n: int, d: int, random: np.random.Generator) -> np.ndarray:
    """Rows whose cosines differ by less than the rounding of a product."""
    return 1 + 1e-4 * random.normal(size=(n, d))


def spread(n: int, d: int, random: np.random.Generator) -> np.ndarray:
    return random.normal(size=(n, d))


def uneven(n: int, d: int, random: np.random.Generator) -> np.ndarray:
    """Rows of one large entry, beside which bytes cannot tell the others apart."""
    rows = random.normal(size=(n, d))
    rows[:, 0] = 300
    return rows


MAKES = [axes, copies, close, spread, uneven]


def ranks(rows: torch.Tensor, labels: np.ndarray, **sides: object) -> dict[int, list[int]]:
    task = retrieval_task(rows, labels, **sides)
    found = {}
    for block in relevance(task, 1, True, None):
        for query, row in zip(block.queries.tolist(), block.ranks.tolist(), strict=True):
            found[query] = [rank for rank in row if rank != UNRANKED]
    return found


def sorted_ranks(
    queries: torch.Tensor, labels: np.ndarray, gallery: torch.Tensor, gallery_labels: np.ndarray, own: np.ndarray
) -> dict[int, list[int]]:
    """By sorting products that are taken in double precision and rounded to the type."""
    x, y = unit_rows(queries), unit_rows(gallery)
    cosine = (x.double() @ y.double().T).to(x.dtype)
    found = {}
    for query, row in enumerate(cosine):
        order = [j for j in row.argsort(descending=True, stable=True).tolist() if j != own[query]]
        found[query] = [p for p, j in enumerate(order, 1) if gallery_labels[j] == labels[query]]
    return found


@pytest.mark.parametrize("make", MAKES)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 130), classes=st.integers(1, 40), d=st.sampled_from([2, 5, 16, 33]))
def test_ranks_of_leave_one_out_are_those_of_a_sort(make: type, seed: int, n: int, classes: int, d: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    labels[1] = labels[0]
    for dtype in (torch.float32, torch.float16):
        rows = torch.from_numpy(make(n, d, random)).to(dtype)
        assert ranks(rows, labels) == sorted_ranks(rows, labels, rows, labels, np.arange(n))


@pytest.mark.parametrize("make", MAKES)
@given(seed=st.integers(0, 10**6), q=st.integers(1, 60), g=st.integers(1, 130), d=st.sampled_from([3, 16, 20]))
def test_ranks_in_a_gallery_of_its_own_are_those_of_a_sort(make: type, seed: int, q: int, g: int, d: int) -> None:
    random = np.random.default_rng(seed)
    queries, gallery = (torch.from_numpy(make(n, d, random)).float() for n in (q, g))
    gallery[: min(q, g) // 2] = queries[: min(q, g) // 2]
    labels, others = random.integers(0, 9, q), random.integers(0, 9, g)
    expected = sorted_ranks(queries, labels, gallery, others, np.full(q, -1))
    assert ranks(queries, labels, gallery=gallery, gallery_labels=others) == expected


@given(seed=st.integers(0, 10**6), share=st.floats(0.1, 1))
def test_ranks_between_masks_are_those_of_a_sort(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    rows, labels = torch.from_numpy(copies(110, 20, random)).float(), random.integers(0, 30, 110)
    is_query, is_gallery = random.random((2, 110)) < share
    is_query[0] = is_gallery[0] = True
    place = np.where(is_gallery, is_gallery.cumsum() - 1, -1)
    expected = sorted_ranks(rows[is_query], labels[is_query], rows[is_gallery], labels[is_gallery], place[is_query])
    assert ranks(rows, labels, is_query=is_query, is_gallery=is_gallery) == expected


@pytest.mark.parametrize("make", [axes, spread])
def test_every_measure_equals_a_plain_loop_and_the_ranking_of_torch(make: type) -> None:
    random = np.random.default_rng(0)
    # Classes of one row, of a few, and of more than are counted one by one.
    labels = np.concatenate([np.arange(5), 5 + np.arange(60) // 4, np.full(140, 99)])
    rows = make(len(labels), 6, random)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = retrieval_values(rows, labels, **MORE)
    expected = measures_of_queries(
        rows.tolist(), labels.tolist(), rows.tolist(), labels.tolist(), range(len(rows)), (1,)
    )
    with native.disabled():
        ranked = retrieval_values(rows, labels, **MORE)
    for name, values in found.items():
        np.testing.assert_allclose(values, ranked[name], rtol=0, atol=1e-12, err_msg=name)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("more", [(), ("mrr",)])
@given(seed=st.integers(0, 10**6), n=st.integers(60, 130), classes=st.integers(10, 50))
def test_what_is_counted_no_further_than_it_matters_gives_the_same_measures(
    make: type, more: tuple[str, ...], seed: int, n: int, classes: int
) -> None:
    random = np.random.default_rng(seed)
    rows, labels = torch.from_numpy(make(n, 6, random)).float(), random.integers(0, classes, n)
    asked = {"ks": (1, 3, 11), "precision_at": (2,)}
    short, full = (retrieval_values(rows, labels, **asked, more=names) for names in (more, ("mrr", "map")))
    for name, values in short.items():
        np.testing.assert_array_equal(values, full[name], err_msg=name)


@pytest.mark.parametrize("chunk", [1, 7, 39, 40, 500])
def test_neither_chunk_nor_threads_change_a_place(chunk: int) -> None:
    random = np.random.default_rng(chunk)
    rows, labels = torch.from_numpy(close(150, 24, random)).float(), random.integers(0, 50, 150)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        whole = retrieval_values(rows, labels, **MORE)
        torch.set_num_threads(1)
        parts = retrieval_values(rows, labels, chunk=chunk, **MORE)
    finally:
        torch.set_num_threads(threads)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name], err_msg=name)


def test_a_collapsed_set_ranks_by_the_row() -> None:
    rows = torch.randn(1, 129, generator=torch.Generator().manual_seed(0)).repeat(100, 1)
    found = ranks(rows, np.arange(100) % 25)
    assert found[30] == [6, 55, 80]  # rows 5, 55 and 80; row 30 itself is passed over


@pytest.mark.parametrize("own_gallery", [False, True])
def test_a_set_whose_rows_are_all_alike_is_ranked_to_the_same_ranks(
    own_gallery: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "ENOUGH", 10_000)
    monkeypatch.setattr(counting, "ENOUGH_OF_BYTES", 10_000)
    random = np.random.default_rng(0)
    # The first queries find what is unlike; then come copies, where counting gives up.
    rows = torch.from_numpy(np.concatenate([spread(80, 20, random), spread(1, 20, random).repeat(220, 0)])).float()
    labels = np.concatenate([np.arange(80) // 4, 20 + np.arange(220) // 2])
    sides = {"gallery": rows, "gallery_labels": labels} if own_gallery else {}
    task = retrieval_task(rows, labels, **sides)
    count = counting.Counting(task, None, counting.Limits())
    assert sum(len(block.queries) for block in count()) == len(rows) - len(count.remaining()) < len(rows)
    own = np.full(300, -1) if own_gallery else np.arange(300)
    assert ranks(rows, labels, **sides) == sorted_ranks(rows, labels, rows, labels, own)


def test_products_of_bytes_end_where_they_leave_too_much_open(products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "ENOUGH_OF_BYTES", 5_000)
    random = np.random.default_rng(0)
    labels = np.arange(300) // 2
    for make in (spread, uneven):
        rows = torch.from_numpy(make(300, 20, random)).float()
        count = counting.Counting(retrieval_task(rows, labels), None, counting.Limits(1, 1))
        assert sum(len(block.queries) for block in count()) == 300
        assert count.by_bytes == (products == "bytes" and make is spread)
        assert ranks(rows, labels) == sorted_ranks(rows, labels, rows, labels, np.arange(300))


def test_no_table_is_larger_than_a_block_and_half_precision_is_widened_a_block_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, d, read, made = 400, 8, [], []
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).half()
    original = UnitRows.__getitem__

    def watched(self: UnitRows, which: torch.Tensor) -> torch.Tensor:
        read.append(len(which))
        return original(self, which)

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            made.extend(
                part.numel() for part in (result if isinstance(result, tuple) else (result,)) if hasattr(part, "numel")
            )
            return result

    monkeypatch.setattr(UnitRows, "__getitem__", watched)
    with Sizes():
        retrieval_values(rows, np.arange(n) // 4, **MORE)
    assert max(read) <= 4 * counting.BLOCK
    assert max(made) <= 2 * n * d


def test_products_that_are_rounded_to_bfloat16_are_ranked_not_counted() -> None:
    task = retrieval_task(np.eye(4), [0, 0, 1, 1])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not counting.countable(task)
    finally:
        torch.set_float32_matmul_precision(before)
    assert counting.countable(task)


def test_a_variable_turns_the_kernels_off_and_others_than_these_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setenv("EMBEX_NATIVE", "0")
            assert not native.available(CPU)
        native.library.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(native, "NearestChoice", native.Tile)
            assert not native.available(CPU)
    finally:
        native.library.cache_clear()
    assert native.available(CPU)
    assert not native.available(torch.device("meta"))
