"""Whether images are squashed or cropped is decided by what the backbone finds on training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_expansion.data.images import ImageSet
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.training import cropping
from embedding_expansion.training.cropping import better_transform

CLASSES, OF_A_CLASS, SIDE = 6, 4, 32


def wide_images(middle_tells: bool) -> ImageSet:
    """Images three times as wide as high, whose class shows in the middle third or in the two others."""
    rng = np.random.default_rng(0)
    labels = np.arange(CLASSES * OF_A_CLASS) // OF_A_CLASS
    noise = rng.integers(0, 256, (len(labels), 3, SIDE // 8, 12), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    of_class = rng.integers(0, 256, (CLASSES, 3, SIDE // 8, 12), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    is_middle = (np.arange(3 * SIDE) // SIDE) == 1
    pixels = np.where(is_middle == middle_tells, of_class[labels], noise)
    return ImageSet(labels=labels, class_names=tuple(map(str, range(CLASSES))), pixels=pixels)


@pytest.mark.parametrize(("middle_tells", "name"), [(True, "center_crop"), (False, "paper")])
def test_images_are_cropped_where_the_middle_tells_the_class(middle_tells: bool, name: str, weights: Path) -> None:
    model = EmbeddingModel("conv4", 8, weights=str(weights))
    found = better_transform(model, wide_images(middle_tells), SIDE, workers=0)
    assert found is not None
    assert found[0] == name
    assert found[1][name] == max(found[1].values()) > min(found[1].values())


def test_a_sample_has_classes_of_the_whole_set_and_as_many_images_as_it_may() -> None:
    labels = np.repeat(np.arange(100), [*[30] * 99, 1])
    images = ImageSet(labels=labels, class_names=tuple(map(str, range(100))), pixels=np.zeros((len(labels), 3, 1, 1)))
    sample = cropping._sample(images)
    classes, counts = np.unique(sample.labels, return_counts=True)
    assert (classes[0], classes[-1], len(classes)) == (0, 98, 40)
    assert set(counts) == {10}
    few = cropping._sample(images.subset(np.flatnonzero(labels < 4)))
    assert np.bincount(few.labels).tolist() == [30] * 4


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]], ids=["one class", "single images"])
def test_nothing_is_chosen_where_nothing_can_be_measured(labels: Any, weights: Path) -> None:
    images = ImageSet(labels=np.array(labels), class_names=("a", "b", "c"), pixels=np.zeros((3, 3, 8, 8), np.uint8))
    assert better_transform(EmbeddingModel("conv4", 8, weights=str(weights)), images, 8, workers=0) is None
