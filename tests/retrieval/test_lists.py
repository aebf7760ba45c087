from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval import lists as module
from embedding_expansion.retrieval.inputs import unit_rows
from embedding_expansion.retrieval.lists import list_metrics
from embedding_expansion.retrieval.metrics import retrieval_metrics
from embedding_expansion.retrieval.search import nearest

from .rerank_oracles import list_measures


@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(3, 15))
def test_lists_are_measured_as_by_a_plain_loop(seed: int, q: int, g: int) -> None:
    random = np.random.default_rng(seed)
    query_labels, gallery_labels = random.integers(0, 4, q), random.integers(0, 4, g)
    query_labels[0] = gallery_labels[0]
    exclude = np.concatenate([[-1], random.integers(-1, g, q - 1)])
    found = np.full((q, g), -1)
    for i in range(q):
        rows = [j for j in random.permutation(g) if j != exclude[i]][: random.integers(0, g + 1)]
        found[i, : len(rows)] = rows
    given_ = (found.tolist(), query_labels.tolist(), gallery_labels.tolist(), (1, 3, 50), exclude.tolist())
    measured = list_metrics(found, query_labels, gallery_labels, (1, 3, 50), exclude=exclude)
    assert measured == pytest.approx(list_measures(*given_), abs=1e-12)


@given(st.integers(0, 10**6))
def test_lists_of_the_nearest_rows_have_the_measures_of_the_embeddings(seed: int) -> None:
    random = np.random.default_rng(seed)
    embeddings, labels = torch.from_numpy(random.normal(size=(40, 3))), random.integers(0, 6, 40)
    unit = unit_rows(embeddings)
    found = nearest(unit, unit, 20, exclude=range(40))[1]
    assert list_metrics(found, labels) == pytest.approx(retrieval_metrics(embeddings, labels), abs=1e-12)
    is_query = random.random(40) < 0.5
    is_gallery = random.random(40) < 0.7
    place = np.where(is_gallery, is_gallery.cumsum() - 1, -1)[is_query]
    found = nearest(unit[is_query], unit[is_gallery], 20, exclude=place)[1]
    assert list_metrics(found, labels[is_query], labels[is_gallery], exclude=place) == pytest.approx(
        retrieval_metrics(embeddings, labels, is_query=is_query, is_gallery=is_gallery), abs=1e-12
    )


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = unit_rows(torch.randn(30, 3)), np.arange(30) % 4
    found = nearest(rows, rows, 9, exclude=range(30))[1]
    whole = list_metrics(found, labels)
    monkeypatch.setattr(module, "ENTRIES", 40)
    assert list_metrics(found, labels) == pytest.approx(whole, abs=1e-12)


def test_labels_of_64_bits_keep_their_identity_also_where_one_side_is_unsigned() -> None:
    queries, gallery = np.array([2**53, 2**53 + 1]), np.array([2**53 + 1, 2**53], dtype=np.uint64)
    assert list_metrics([[1, 0], [0, 1]], queries, gallery, ks=(1,))["recall_at_1"] == 1.0
    assert list_metrics([[0, 1], [1, 0]], queries, gallery, ks=(1,))["recall_at_1"] == 0.0


def test_queries_without_a_match_are_misses_in_recall_only_and_the_log_tells_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        measured = list_metrics([[1], [0], [0]], [5, 5, 7], ks=(1,))
    assert measured == {"recall_at_1": 2 / 3, "precision_at_1": 1.0, "r_precision": 1.0, "map_at_r": 1.0}
    assert "1 of 3 queries have no other row of their class" in caplog.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lists": [[1, 2], [0, 2]]}, "lists has 2 rows but query_labels has 3 entries"),
        ({"lists": [[1, 1], [0, 2], [0, 1]]}, "list of query 0 contains a gallery row twice"),
        ({"lists": [[1, 2], [1, 2], [0, 1]]}, "list of query 1 contains the row that is excluded for its query"),
        ({"lists": [[1, 2], [0, 2], [-1, 1]]}, "list of query 2 has a row after a -1"),
        ({"lists": [[1, 3], [0, 2], [0, 1]]}, "lists has indices from 0 to 3, but there are 3 gallery labels"),
        ({"lists": [1, 2, 3]}, r"lists has the shape \(3,\)"),
        ({"lists": [[1], [0], [0]]}, "lists has 1 columns, but the largest K is 2"),
        ({"query_labels": [1, 2, 3]}, "none of the 3 queries has another row of its class"),
        ({"exclude": [0, 1]}, "exclude has 2 entries for 3 queries"),
        ({"exclude": [0, 1, 3]}, "exclude has indices from 0 to 3"),
        ({"ks": (0,)}, "ks holds 0"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, Any], said: str) -> None:
    given_ = {"lists": [[1, 2], [0, 2], [0, 1]], "query_labels": [4, 4, 4], "ks": (1, 2)}
    with pytest.raises(InvalidInput, match=said):
        list_metrics(**given_ | changed)


def test_lists_that_are_too_short_for_a_class_are_refused() -> None:
    with pytest.raises(InvalidInput, match="a query has up to 3 gallery rows of its class; pass lists with at least 3"):
        list_metrics([[1], [0], [0], [0]], [4, 4, 4, 4], ks=(1,))


def test_lists_and_labels_must_be_whole_numbers() -> None:
    with pytest.raises(InvalidType, match="lists has the type float64"):
        list_metrics(np.array([[1.0], [0.0]]), [1, 1])
    with pytest.raises(InvalidType, match="query_labels holds text; pass whole numbers"):
        list_metrics([[1], [0]], ["a", "a"])  # type: ignore[list-item]
