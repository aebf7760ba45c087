from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from embedding_expansion.data.images import ImageSet
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.training.evaluation import measure_post_processed, measure_retrieval


def images(masks: bool) -> ImageSet:
    random = np.random.default_rng(0)
    labels = np.arange(40) % 7
    query = random.random(40) < 0.6
    return ImageSet(
        labels,
        tuple("abcdefg"),
        pixels=np.zeros((40, 1, 2, 2), dtype=np.uint8),
        is_query=query if masks else None,
        is_gallery=random.random(40) < 0.7 if masks else None,
    )


@pytest.mark.parametrize("masks", [False, True])
def test_without_steps_the_measures_are_those_of_the_embeddings(masks: bool) -> None:
    vectors, chosen = torch.randn(40, 5), images(masks)
    measured = measure_post_processed(vectors, chosen, (1, 5, 100), Steps(), None)
    assert measured.pop("steps") == {}
    assert measured == pytest.approx(measure_retrieval(vectors, chosen, (1, 5, 100)), abs=1e-12)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("steps", [Steps(dba=3, qe=3), Steps(whiten=3, reciprocal=6), Steps(diffusion=4)], ids=str)
def test_what_the_classes_are_called_changes_nothing_and_the_steps_are_noted(masks: bool, steps: Steps) -> None:
    vectors, chosen, training = torch.randn(40, 5), images(masks), torch.randn(20, 5)
    measured = measure_post_processed(vectors, chosen, (1, 5), steps, training)
    renamed = dataclasses.replace(chosen, labels=6 - chosen.labels)
    assert measure_post_processed(vectors, renamed, (1, 5), steps, training) == measured
    assert measured["steps"] == {name: value for name, value in vars(steps).items() if value is not None}


def test_classes_that_lie_apart_are_found_entirely() -> None:
    chosen = images(True)
    vectors = torch.nn.functional.one_hot(torch.from_numpy(chosen.labels)).float() + 0.01 * torch.randn(40, 7)
    for steps in (Steps(whiten=6, dba=2, qe=2), Steps(reciprocal=4), Steps(diffusion=4)):
        measured = measure_post_processed(vectors, chosen, (1,), steps, vectors)
        assert measured["recall_at_1"] == measured["map_at_r"] == 1.0
