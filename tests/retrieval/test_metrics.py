from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.metrics import retrieval_metrics

from .oracles import retrieval

KS = (1, 2, 4, 8)


def noisy_classes(n: int, classes: int, seed: int, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows around their class's center, far enough off that neighbours are often wrong; classes of unequal size."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), np.arange(classes), random.integers(0, classes, n - 2 * classes) // 2])
    return random.normal(size=(classes, d))[labels] + 0.8 * random.normal(size=(n, d)), labels


def test_recall_counts_a_hit_within_the_first_k() -> None:
    angles = np.radians([0, 10, 21, 33, 90])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = retrieval_metrics(rows, [0, 1, 1, 0, 0], ks=(1, 2, 3))
    # In order: row 0 sees 1, 2, 3; row 1 sees 0, 2; row 2 sees 1; row 3 sees 2, 1, 0; row 4 sees 3.
    assert found["recall_at_1"] == pytest.approx(2 / 5)
    assert found["recall_at_2"] == pytest.approx(3 / 5)
    assert found["recall_at_3"] == pytest.approx(5 / 5)


@given(st.integers(0, 10**6), st.integers(12, 60), st.integers(2, 6))
def test_every_measure_equals_a_plain_loop(seed: int, n: int, classes: int) -> None:
    rows, labels = noisy_classes(n, classes, seed)
    expected = retrieval(rows.tolist(), labels.tolist(), KS)
    assert retrieval_metrics(rows, labels, KS) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10**6), st.floats(0.2, 0.9), st.floats(0.3, 1))
def test_queries_and_gallery_equal_a_plain_loop(seed: int, queries: float, gallery: float) -> None:
    rows, labels = noisy_classes(40, 4, seed)
    random = np.random.default_rng(seed)
    is_query, is_gallery = random.random(40) < queries, random.random(40) < gallery
    expected = retrieval(rows.tolist(), labels.tolist(), KS, is_query.tolist(), is_gallery.tolist())
    found = retrieval_metrics(rows, labels, KS, is_query=is_query, is_gallery=torch.from_numpy(is_gallery))
    assert found == pytest.approx(expected, abs=1e-12)


def test_one_mask_leaves_the_other_side_whole() -> None:
    rows, labels = noisy_classes(40, 4, 1)
    mask = [i % 3 == 0 for i in range(40)]
    everything = [True] * 40
    assert retrieval_metrics(rows, labels, is_query=mask) == retrieval_metrics(
        rows, labels, is_query=mask, is_gallery=everything
    )
    assert retrieval_metrics(rows, labels, is_gallery=mask) == retrieval_metrics(
        rows, labels, is_query=everything, is_gallery=mask
    )
    assert retrieval_metrics(rows, labels) == retrieval_metrics(
        rows, labels, is_query=everything, is_gallery=everything
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_incumbent_agrees_also_where_a_class_has_one_image(seed: int) -> None:
    rows, labels = noisy_classes(300, 20, seed, d=16)
    labels[7] = 99
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    expected = calculator.get_accuracy(torch.from_numpy(rows), torch.from_numpy(labels))
    found = retrieval_metrics(rows, labels)
    assert found["precision_at_1"] == pytest.approx(expected["precision_at_1"], abs=1e-6)
    assert found["r_precision"] == pytest.approx(expected["r_precision"], abs=1e-6)
    assert found["map_at_r"] == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-6)


@given(st.integers(0, 10**6))
def test_the_order_of_the_rows_changes_nothing(seed: int) -> None:
    rows, labels = noisy_classes(50, 5, seed)
    order = np.random.default_rng(seed).permutation(50)
    assert retrieval_metrics(rows[order], labels[order]) == pytest.approx(retrieval_metrics(rows, labels), abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_the_chunk_changes_nothing(seed: int, chunk: int) -> None:
    rows, labels = noisy_classes(50, 5, seed)
    found = retrieval_metrics(rows, labels, chunk=chunk)
    assert found == pytest.approx(retrieval_metrics(rows, labels), abs=1e-12)


@given(st.integers(0, 10**6), st.floats(1e-100, 1e100))
def test_rotations_and_the_norms_of_rows_change_nothing(seed: int, scale: float) -> None:
    rows, labels = noisy_classes(50, 5, seed)
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]
    turned = rows @ rotation * random.uniform(0.1, 10, (50, 1)) * scale
    assert retrieval_metrics(turned, labels) == pytest.approx(retrieval_metrics(rows, labels), abs=1e-12)


@given(st.integers(0, 10**6))
def test_recall_grows_with_k_up_to_a_hit_anywhere(seed: int) -> None:
    rows, labels = noisy_classes(30, 4, seed)
    found = retrieval_metrics(rows, labels, ks=range(1, 60))
    recalls = [found[f"recall_at_{k}"] for k in range(1, 60)]
    assert recalls == sorted(recalls)
    assert recalls[28:] == [1.0] * 31


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_near_float32(dtype: torch.dtype) -> None:
    rows, labels = noisy_classes(400, 20, 3, d=32)
    half, full = torch.from_numpy(rows).to(dtype), torch.from_numpy(rows).float()
    assert retrieval_metrics(half, labels) == pytest.approx(retrieval_metrics(full, labels), abs=0.02)
    assert retrieval_metrics(half, labels) == retrieval_metrics(half.float(), labels)


def test_equal_rows_rank_by_their_place() -> None:
    rows = np.tile(np.random.default_rng(0).normal(size=(1, 33)).astype(np.float32), (77, 1))
    labels = np.arange(77) % 3
    expected = retrieval(np.ones((77, 1)).tolist(), labels.tolist(), KS)
    for chunk in (None, 1, 2, 10):
        assert retrieval_metrics(rows, labels, KS, chunk=chunk) == pytest.approx(expected, abs=1e-12)


def test_rows_of_zeros_have_cosine_zero() -> None:
    rows = np.array([[0.0, 0.0], [-1.0, 0.1], [0.0, 0.0], [-1.0, 0.0]])
    # Row 0 ties with every row and takes row 1, row 1 sees 3, row 2 takes 0, row 3 sees 1.
    assert retrieval_metrics(rows, [0, 1, 0, 1], ks=(1,))["recall_at_1"] == pytest.approx(3 / 4)


@pytest.mark.parametrize("form", [list, np.array, torch.tensor])
def test_labels_of_any_size_keep_their_identity(form: type) -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    alike = [2**53, 2**53 + 1, 2**53, 2**53 + 1]
    assert retrieval_metrics(rows, form(alike), ks=(1, 3))["recall_at_1"] == 0
    assert retrieval_metrics(rows, form([-(2**63), -(2**63), 2**62, 2**62]), ks=(1,))["recall_at_1"] == 1


def test_the_only_image_of_its_class_is_a_miss_for_recall_and_no_query_for_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    with caplog.at_level(logging.WARNING):
        found = retrieval_metrics(rows, [0, 0, 1], ks=(1,))
    assert found == pytest.approx({"recall_at_1": 2 / 3, "precision_at_1": 1, "r_precision": 1, "map_at_r": 1})
    assert "1 of 3 queries have no other row of their class" in caplog.text


def test_a_large_class_among_small_ones_is_measured_as_far_as_it_goes() -> None:
    random = np.random.default_rng(0)
    labels = np.concatenate([np.zeros(1200, dtype=int), np.arange(1, 101).repeat(3)])
    rows = random.normal(size=(101, 8))[labels] + 0.3 * random.normal(size=(1500, 8))
    found = retrieval_metrics(rows, labels)
    cosine = torch.nn.functional.normalize(torch.from_numpy(rows))
    relevant = torch.from_numpy(labels)[(cosine @ cosine.T).fill_diagonal_(-2).argsort(1, descending=True)]
    relevant = relevant == torch.from_numpy(labels)[:, None]
    matches = torch.from_numpy(np.bincount(labels)[labels] - 1)
    counted = relevant & (torch.arange(1500) < matches[:, None])
    precision = relevant.cumsum(1) / torch.arange(1.0, 1501)
    assert found["r_precision"] == pytest.approx(float((counted.sum(1) / matches).mean()), abs=1e-6)
    assert found["map_at_r"] == pytest.approx(float(((counted * precision).sum(1) / matches).mean()), abs=1e-6)


def test_a_large_k_counts_hits_far_behind_the_neighbours_that_are_looked_at() -> None:
    random = np.random.default_rng(0)
    rows, labels = random.normal(size=(120, 4)), np.arange(120) % 60
    ks = (1, 10, 30, 90, 118, 119, 500)
    expected = retrieval(rows.tolist(), labels.tolist(), ks)
    assert 0 < expected["recall_at_10"] < expected["recall_at_90"] < 1
    assert retrieval_metrics(rows, labels, ks) == pytest.approx(expected, abs=1e-12)


def test_no_k_leaves_the_other_measures_and_a_k_given_twice_counts_once() -> None:
    rows, labels = noisy_classes(20, 3, 0)
    assert list(retrieval_metrics(rows, labels, ks=())) == ["precision_at_1", "r_precision", "map_at_r"]
    assert list(retrieval_metrics(rows, labels, ks=[2, 2]))[:2] == ["recall_at_2", "precision_at_1"]


ROWS = np.eye(3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((ROWS, [0, 0]), {}, r"labels has 2 entries but embeddings has 3 rows; pass one label per row"),
        ((ROWS, [[0], [0], [1]]), {}, r"labels has the shape \(3, 1\)"),
        ((ROWS, [[0], [0, 1], [1]]), {}, r"labels cannot be read"),
        ((ROWS[:0], []), {}, r"embeddings has the shape \(0, 3\)"),
        ((ROWS * np.nan, [0, 0, 1]), {}, r"NaN or infinite entries in 3 of 3 rows, the first is row 0"),
        ((ROWS, [0, 1, 2]), {}, r"none of the 3 queries has another row of its class"),
        ((ROWS, [0, 0, 1], (0,)), {}, r"ks holds 0"),
        ((ROWS, [0, 0, 1]), {"chunk": 0}, r"chunk is 0"),
        ((ROWS, [0, 0, 1]), {"is_query": [False] * 3}, r"is_query selects none of the 3 rows"),
        ((ROWS, [0, 0, 1]), {"is_gallery": [True]}, r"is_gallery has 1 entries but embeddings has 3 rows"),
    ],
)
def test_bad_input_is_told_in_one_sentence(
    arguments: tuple[object, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        retrieval_metrics(*arguments, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[1.0], [2.0]], [0, 0]), {}, r"embeddings is a list; pass a tensor or a NumPy array"),
        ((ROWS.astype(int), [0, 0, 1]), {}, r"embeddings has the type int64"),
        ((ROWS, [0.0, 0.0, 1.0]), {}, r"labels has the type float64"),
        ((ROWS, ["a", "a", "b"]), {}, "labels holds text; pass whole numbers, as numpy"),
        ((ROWS, [0, 0, 1], 4), {}, r"ks is 4; pass whole numbers"),
        ((ROWS, [0, 0, 1], (1.5,)), {}, r"ks holds 1.5"),
        ((ROWS, [0, 0, 1]), {"is_gallery": [0, 1, 1]}, r"is_gallery has the type int64"),
    ],
)
def test_an_object_of_the_wrong_kind_is_a_type_error(
    arguments: tuple[object, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidType, match=message):
        retrieval_metrics(*arguments, **options)  # type: ignore[arg-type]
