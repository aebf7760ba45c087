"""On a GPU the search, the measures, k-means and post-processing give what they give on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from embedding_expansion.retrieval.clustering import clustering_metrics
from embedding_expansion.retrieval.kmeans import kmeans
from embedding_expansion.retrieval.metrics import retrieval_metrics
from embedding_expansion.retrieval.open_set import open_set
from embedding_expansion.retrieval.rerank import (
    PCAWhitening,
    alpha_query_expansion,
    database_augmentation,
    diffusion,
    k_reciprocal,
)
from embedding_expansion.retrieval.search import nearest
from embedding_expansion.retrieval.verification import verification

from .test_metrics import KS, noisy_classes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
ROWS, LABELS = (torch.from_numpy(array) for array in noisy_classes(300, 12, 0, d=16))


@pytest.mark.parametrize("chunk", [None, 7])
def test_neighbours_are_the_same_also_where_rows_are_equal(chunk: int | None) -> None:
    twice = torch.cat([ROWS, ROWS[:50]])
    here = nearest(twice, twice, 20, exclude=range(len(twice)), chunk=chunk)
    there = nearest(twice.cuda(), twice.cuda(), 20, exclude=range(len(twice)), chunk=chunk)
    assert there[1].is_cuda
    assert torch.equal(there[1].cpu(), here[1])
    torch.testing.assert_close(there[0].cpu(), here[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype) -> None:
    stored = torch.nn.functional.normalize(ROWS, dim=1).to(dtype)
    exact = stored.double() @ stored.double().T
    similarities, indices = nearest(stored.cuda(), stored.cuda(), 5)
    assert similarities.dtype == torch.float32
    torch.testing.assert_close(similarities.cpu().double(), exact.gather(1, indices.cpu()), rtol=0, atol=1e-5)
    torch.testing.assert_close(similarities.cpu().double(), exact.topk(5).values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", ["leave one out", "query and gallery"])
def test_every_measure_is_the_same(sides: str) -> None:
    options: dict[str, Any] = {"precision_at": (5,), "more": ("mrr", "map", "ndcg")}
    if sides != "leave one out":
        options |= {"is_query": np.arange(300) % 3 == 0, "is_gallery": np.arange(300) % 3 != 0}
    here = retrieval_metrics(ROWS, LABELS, KS, **options)
    assert retrieval_metrics(ROWS.cuda(), LABELS.cuda(), KS, **options) == pytest.approx(here, abs=1e-12)


def test_kmeans_is_the_same() -> None:
    here, there = (kmeans(ROWS.to(device), 12, restarts=3) for device in ("cpu", "cuda"))
    assert torch.equal(there.assignment.cpu(), here.assignment)
    assert (there.inertia, there.iterations) == pytest.approx((here.inertia, here.iterations))
    found = clustering_metrics(ROWS.cuda(), LABELS.cuda())
    assert found == pytest.approx(clustering_metrics(ROWS, LABELS))


def test_verification_and_open_set_retrieval_are_the_same() -> None:
    here, there = (verification(ROWS.to(device), LABELS.to(device)) for device in ("cpu", "cuda"))
    assert (there.auc, there.equal_error_rate) == pytest.approx((here.auc, here.equal_error_rate))
    known = LABELS.numpy() < 8
    open_here, open_there = (open_set(ROWS.to(d), LABELS.to(d), is_gallery=known) for d in ("cpu", "cuda"))
    assert (open_there.known, open_there.auc) == pytest.approx((open_here.known, open_here.auc))


def test_post_processing_is_the_same() -> None:
    queries, gallery = ROWS[:100], ROWS[100:]
    torch.testing.assert_close(
        alpha_query_expansion(queries.cuda(), gallery.cuda(), 5, 3.0).cpu(),
        alpha_query_expansion(queries, gallery, 5, 3.0),
    )
    torch.testing.assert_close(
        database_augmentation(gallery.cuda(), 5, 3.0).cpu(), database_augmentation(gallery, 5, 3.0)
    )
    torch.testing.assert_close(
        PCAWhitening.fit(gallery.cuda(), 8).apply(queries.cuda()).cpu().abs(),
        PCAWhitening.fit(gallery, 8).apply(queries).abs(),
    )
    for lists in (k_reciprocal, diffusion):
        here, there = (lists(queries.to(device), gallery.to(device), 10) for device in ("cpu", "cuda"))
        assert torch.equal(there[1].cpu(), here[1])
