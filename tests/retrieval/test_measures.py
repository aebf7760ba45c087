"""What `retrieval_metrics` measures when asked for more, per query, per class, and with a gallery of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName
from embedding_expansion.retrieval import native, relevance
from embedding_expansion.retrieval.metrics import retrieval_by_class, retrieval_metrics, retrieval_values
from embedding_expansion.retrieval.search import Comparison
from embedding_expansion.retrieval.task import retrieval_task

from .oracles import measures_of_queries

MORE = ("mrr", "map", "ndcg")
ASKED = {"ks": (1, 5), "precision_at": (3, 200), "more": MORE}


def axes(n: int, seed: int) -> np.ndarray:
    """Unit rows along the axes of 5 dimensions: their cosines are exact, and nearly all of them tie."""
    random = np.random.default_rng(seed)
    return np.eye(5)[random.integers(0, 5, n)] * random.choice([-1.0, 1.0], (n, 1))


def spread(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, 5))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def equal(found: dict[str, np.ndarray], expected: dict[str, list[float]]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("make", [axes, spread])
@given(seed=st.integers(0, 10**6), n=st.integers(8, 90), classes=st.integers(1, 7))
def test_leave_one_out_equals_a_plain_loop_for_every_query_ties_or_not(
    make: type, seed: int, n: int, classes: int
) -> None:
    rows, labels = make(n, seed), np.random.default_rng(seed).integers(0, classes, n)
    expected = measures_of_queries(
        rows.tolist(), labels.tolist(), rows.tolist(), labels.tolist(), range(n), (1, 3, 200)
    )
    equal(retrieval_values(rows, labels, **ASKED), expected)
    means = retrieval_metrics(rows, labels, **ASKED)
    assert {name: means[name] for name in expected} == pytest.approx({k: np.nanmean(v) for k, v in expected.items()})


@pytest.mark.parametrize("make", [axes, spread])
@given(seed=st.integers(0, 10**6), q=st.integers(3, 30), g=st.integers(1, 90))
def test_a_gallery_of_its_own_equals_a_plain_loop_and_the_masks(make: type, seed: int, q: int, g: int) -> None:
    random = np.random.default_rng(seed)
    queries, gallery = make(q, seed), make(g, seed + 1)
    labels, gallery_labels = random.integers(0, 4, q), random.integers(0, 4, g)
    labels[0] = gallery_labels[0]
    found = retrieval_values(queries, labels, gallery=gallery, gallery_labels=gallery_labels.tolist(), **ASKED)
    expected = measures_of_queries(
        queries.tolist(), labels.tolist(), gallery.tolist(), gallery_labels.tolist(), [-1] * q, (1, 3, 200)
    )
    equal(found, expected)
    is_query = np.arange(q + g) < q
    rows, both = np.concatenate([queries, gallery]), np.concatenate([labels, gallery_labels])
    masked = retrieval_values(rows, both, is_query=is_query, is_gallery=~is_query, **ASKED)
    equal(masked, {name: values.tolist() for name, values in found.items()})


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_the_chunk_changes_no_query(seed: int, chunk: int) -> None:
    rows, labels = axes(40, seed), np.arange(40) % 6
    whole = retrieval_values(rows, labels, **ASKED)
    equal(retrieval_values(rows, labels, chunk=chunk, **ASKED), {name: v.tolist() for name, v in whole.items()})


def test_classes_larger_than_what_is_counted_are_placed_all_the_same() -> None:
    rows, labels = spread(290, 0), np.arange(290) // 145
    expected = measures_of_queries(rows.tolist(), labels.tolist(), rows.tolist(), labels.tolist(), range(290), ())
    equal(retrieval_values(rows, labels, (), more=MORE), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_incumbent_agrees_on_the_full_ranking(seed: int) -> None:
    rows, labels = spread(150, seed), np.arange(150) % 11
    calculator = AccuracyCalculator(
        include=("mean_average_precision", "mean_reciprocal_rank"),
        k=None,
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    found = retrieval_metrics(rows, labels, (), more=("map",))
    expected = calculator.get_accuracy(torch.from_numpy(rows), torch.from_numpy(labels))
    assert found["map"] == pytest.approx(expected["mean_average_precision"], abs=1e-6)


@given(st.integers(0, 10**6))
def test_a_class_has_the_mean_of_its_queries_and_the_classes_make_up_the_whole(seed: int) -> None:
    rows, labels = spread(60, seed), np.random.default_rng(seed).integers(0, 9, 60) * 2**40
    labels[0] = -5
    values, found = retrieval_values(rows, labels, **ASKED), retrieval_by_class(rows, labels, **ASKED)
    assert found.labels.tolist() == np.unique(labels).tolist()
    assert found.queries.sum() == 60
    for name, column in values.items():
        for label, mean in zip(found.labels, found.measures[name], strict=True):
            own = column[labels == label]
            expected = np.nan if np.isnan(own).all() else np.nanmean(own)
            np.testing.assert_allclose(mean, expected, atol=1e-12)
    whole = float((found.measures["recall_at_1"] * found.queries).sum() / 60)
    assert whole == pytest.approx(retrieval_metrics(rows, labels, **ASKED)["recall_at_1"])


def test_only_classes_of_queries_are_told() -> None:
    found = retrieval_by_class(np.eye(3), [4, 6, 5], (1,), gallery=np.eye(3), gallery_labels=[4, 7, 5])
    assert found.labels.tolist() == [4, 5, 6]
    assert found.measures["recall_at_1"].tolist() == [1, 1, 0]
    assert np.isnan(found.measures["r_precision"][2])


def test_labels_beyond_the_digits_of_a_float_stay_apart_on_both_sides() -> None:
    rows = np.eye(2)
    signed, unsigned = np.array([2**62, 2**62 + 1]), np.array([2**62 + 1, 2**62], dtype=np.uint64)
    found = retrieval_values(rows, signed, (1, 2), gallery=rows, gallery_labels=unsigned)
    assert found["recall_at_1"].tolist() == [0, 0]
    assert found["recall_at_2"].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_never_widened_as_a_whole(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = torch.from_numpy(spread(300, 0)).to(dtype), torch.arange(300) % 20
    expected = retrieval_values(rows.float(), labels, **ASKED)
    seen = []

    class Watched(Comparison):
        def __init__(self, gallery: object, *rest: object) -> None:
            seen.append(gallery)
            super().__init__(gallery, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(relevance, "Comparison", Watched)
    with native.disabled():
        equal(retrieval_values(rows, labels, **ASKED), {name: values.tolist() for name, values in expected.items()})
    (gallery,) = seen
    assert gallery._rows.data_ptr() == rows.data_ptr()
    assert gallery[:3].dtype == torch.float32


def test_a_mask_and_a_gallery_share_the_rows_that_they_need_not_copy() -> None:
    rows = torch.from_numpy(spread(10, 0)).half()
    task = retrieval_task(rows, [0] * 10, is_query=[True] * 4 + [False] * 6)
    assert task.gallery._rows.data_ptr() == rows.data_ptr()
    assert len(task.queries) == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"more": "map"}, InvalidType, r"more is 'map'; pass several names"),
        ({"more": ("ndgc",)}, UnknownName, r"there is no measure named 'ndgc'; did you mean 'ndcg'"),
        ({"precision_at": (0,)}, InvalidInput, r"precision_at holds 0"),
        ({"precision_at": 3}, InvalidType, r"precision_at is 3"),
        ({"gallery": np.eye(3)}, InvalidInput, r"only one of gallery and gallery_labels"),
        ({"gallery_labels": [0, 1]}, InvalidInput, r"only one of gallery and gallery_labels"),
        ({"gallery": np.eye(2), "gallery_labels": [0, 0]}, InvalidInput, r"has 3 columns on cpu but gallery has 2"),
        (
            {"gallery": np.eye(3), "gallery_labels": [0]},
            InvalidInput,
            r"gallery_labels has 1 entries but gallery has 3",
        ),
        ({"gallery": np.eye(3), "gallery_labels": [0.0] * 3}, InvalidType, r"gallery_labels has the type float64"),
        ({"gallery": np.full((3, 3), np.nan), "gallery_labels": [0] * 3}, InvalidInput, r"gallery has NaN"),
        (
            {"gallery": np.eye(3), "gallery_labels": [0] * 3, "is_gallery": [True] * 3},
            InvalidInput,
            r"is_gallery and gallery are both given",
        ),
        ({"gallery": np.eye(3), "gallery_labels": [8] * 3}, InvalidInput, r"none of the 3 queries has another row"),
    ],
)
def test_nonsense_is_told_in_one_sentence(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        retrieval_metrics(np.eye(3), [0, 0, 1], **options)  # type: ignore[arg-type]
