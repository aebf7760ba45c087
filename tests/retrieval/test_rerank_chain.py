from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.inputs import unit_rows
from embedding_expansion.retrieval.rerank.chain import post_processed_lists
from embedding_expansion.retrieval.rerank.graph_diffusion import diffusion
from embedding_expansion.retrieval.rerank.reciprocal import k_reciprocal
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.retrieval.search import nearest

from .oracles import neighbours
from .rerank_oracles import expanded, unit


def sides(q: int, g: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(q, 4)) * 3, random.normal(size=(g, 4))


def test_without_steps_the_lists_are_the_nearest() -> None:
    queries, gallery = sides(5, 12)
    expected = neighbours(unit(queries.tolist()), unit(gallery.tolist()), 4)
    assert post_processed_lists(queries, gallery, 4, Steps()).tolist() == expected


def test_the_gallery_is_augmented_before_the_queries_are_expanded_and_a_query_never_finds_itself() -> None:
    for queries, gallery, own in ((*sides(5, 12), [-1] * 5), (sides(9, 1)[0], sides(9, 1)[0], list(range(9)))):
        everything = list(range(len(gallery)))
        augmented = expanded(gallery.tolist(), gallery.tolist(), 2, 1.5, everything)
        found = expanded(queries.tolist(), augmented, 3, 1.5, own)
        steps = Steps(dba=2, qe=3, alpha=1.5)
        lists = post_processed_lists(queries, gallery, 6, steps, exclude=own).tolist()
        assert lists == neighbours(found, augmented, 6, own)


def test_whitening_comes_first_and_is_of_the_training_rows() -> None:
    queries, gallery = sides(5, 12)
    training = np.random.default_rng(1).normal(size=(30, 4)) + 1
    normal = np.array(unit(training.tolist()))
    _, singular, axes = np.linalg.svd(normal - normal.mean(0), full_matrices=False)
    scale = axes[:2].T / singular[:2]
    whitened = [(np.array(unit(side.tolist())) - normal.mean(0)) @ scale for side in (queries, gallery)]
    expected = neighbours(unit(whitened[0].tolist()), unit(whitened[1].tolist()), 5)
    assert post_processed_lists(queries, gallery, 5, Steps(whiten=2), training=training).tolist() == expected


def test_the_last_step_makes_the_list() -> None:
    rows = unit_rows(torch.randn(30, 4, dtype=torch.float64))
    own = range(30)
    reciprocal = post_processed_lists(rows, rows, 6, Steps(reciprocal=5, k2=2, distance_weight=0.1), exclude=own)
    assert torch.equal(reciprocal, k_reciprocal(rows, rows, 6, k1=5, k2=2, distance_weight=0.1, exclude=own)[1])
    diffused = post_processed_lists(rows, rows, 6, Steps(diffusion=4), exclude=own)
    assert torch.equal(diffused, diffusion(rows, rows, 6, k=4, exclude=own)[1])
    assert not torch.equal(reciprocal, diffused)
    assert not torch.equal(reciprocal, nearest(rows, rows, 6, exclude=own)[1])


def test_every_step_together_and_a_gallery_of_one_row() -> None:
    training = torch.randn(20, 4)
    for last in ({"reciprocal": 3}, {"diffusion": 3}):
        steps = Steps(whiten="all", dba=2, qe=2, **last)
        lists = post_processed_lists(torch.randn(2, 4), torch.randn(1, 4), 3, steps, training=training)
        assert lists.tolist() == [[0, -1, -1]] * 2
        lists = post_processed_lists(torch.randn(1, 4), torch.randn(1, 4), 3, steps, training=training, exclude=[0])
        assert lists.tolist() == [[-1, -1, -1]]


def test_whitening_without_rows_to_fit_it_on_is_refused() -> None:
    with pytest.raises(InvalidInput, match="whitening needs rows to fit on"):
        post_processed_lists(torch.randn(3, 4), torch.randn(5, 4), 2, Steps(whiten="all"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "none"),
        ({"qe": 5}, "qe 5 (alpha 3)"),
        ({"dba": 2, "qe": 5, "alpha": 0.5}, "dba 2, qe 5 (alpha 0.5)"),
        ({"whiten": 64, "reciprocal": 20}, "whiten 64 (shrinkage 0), reciprocal 20 (k2 6, distance_weight 0.3)"),
        ({"diffusion": 50, "whiten": "all"}, "whiten all (shrinkage 0), diffusion 50"),
    ],
)
def test_steps_say_what_is_done(given: dict[str, Any], said: str) -> None:
    assert str(Steps(**given)) == said
    assert bool(Steps(**given)) == bool(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"qe": 0}, "rerank.qe is 0; pass a whole number of at least 1"),
        ({"whiten": -1}, "rerank.whiten is -1; pass a whole number of at least 1"),
        ({"qe": 2, "alpha": -0.5}, "rerank.alpha is -0.5; pass a finite number of at least 0"),
        ({"qe": 2, "alpha": float("nan")}, "rerank.alpha is nan"),
        ({"whiten": "all", "shrinkage": 2.0}, "rerank.shrinkage is 2.0; pass a number from 0 to 1"),
        ({"alpha": 2.0}, "rerank.alpha is 2.0, but only has a meaning for rerank.dba or rerank.qe"),
        ({"k2": 2, "diffusion": 3}, "rerank.k2 is 2, but only has a meaning for rerank.reciprocal"),
        ({"reciprocal": 2, "diffusion": 3}, "both make the final list; pass one of them"),
    ],
)
def test_steps_that_make_no_sense_are_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Steps(**given)
