"""Embedding whole sets, and holding out classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.transforms import test_transform
from embedding_expansion.errors import DataError
from embedding_expansion.training.evaluation import (
    can_be_measured,
    consecutive_classes,
    embed_images,
    hold_out_classes,
    raw_pixels,
)


def labelled(labels: list[int]) -> ImageSet:
    pixels = np.arange(len(labels) * 12, dtype=np.uint8).reshape(len(labels), 3, 2, 2)
    return ImageSet(np.array(labels), tuple(str(k) for k in range(max(labels) + 1)), pixels=pixels)


def test_held_out_classes_are_whole_disjoint_and_decided_by_the_seed() -> None:
    images = labelled([k // 3 for k in range(60)])
    train, held = hold_out_classes(images, 0.2, seed=1)
    assert len(held.classes) == 4
    assert sorted([*train.classes, *held.classes]) == list(range(20))
    assert len(train) + len(held) == 60
    again = hold_out_classes(images, 0.2, seed=1)[1]
    other = hold_out_classes(images, 0.2, seed=2)[1]
    assert again.classes.tolist() == held.classes.tolist() != other.classes.tolist()


def test_held_out_classes_are_neighbours_by_name() -> None:
    images = labelled([k // 3 for k in range(60)])
    firsts = set()
    for seed in range(30):
        order = consecutive_classes(images, seed).tolist()
        assert order == [(order[0] + k) % 20 for k in range(20)]
        assert set(hold_out_classes(images, 0.2, seed)[1].classes.tolist()) == set(order[:4])
        firsts.add(order[0])
    assert len(firsts) > 10


def test_at_least_two_classes_are_held_out_and_two_are_left() -> None:
    train, held = hold_out_classes(labelled([0, 1, 2, 3]), 0.01, seed=0)
    assert (len(train.classes), len(held.classes)) == (2, 2)
    with pytest.raises(DataError, match="3 classes, too few"):
        hold_out_classes(labelled([0, 1, 2]), 0.5, seed=0)


@pytest.mark.parametrize(("classes", "held"), [(4, 2), (5, 2), (9, 4), (10, 5), (24, 5), (28, 6), (100, 20)])
def test_by_default_a_fifth_and_at_least_five_classes_are_held_out(classes: int, held: int) -> None:
    images = labelled([k // 2 for k in range(2 * classes)])
    assert len(hold_out_classes(images, None, seed=0)[1].classes) == held


def test_classes_of_one_image_are_held_out_last() -> None:
    images = labelled([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7])
    for seed in range(5):
        held = hold_out_classes(images, 0.4, seed)[1]
        assert len(held.classes) == 3
        assert min(held.classes) >= 4
    only_single = hold_out_classes(labelled([0, 1, 2, 3, 4]), None, 0)[1]
    assert not can_be_measured(only_single)
    assert not can_be_measured(labelled([0, 0, 0]))
    assert can_be_measured(labelled([0, 0, 1]))


def test_raw_pixels_compare_by_their_cosine() -> None:
    images = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    flat = images.double().flatten(1).numpy()
    expected = flat @ flat.T / np.outer(np.linalg.norm(flat, axis=1), np.linalg.norm(flat, axis=1))
    vectors = raw_pixels(images)
    np.testing.assert_allclose((vectors @ vectors.T).numpy(), expected, rtol=1e-5)


def test_a_broken_image_is_left_out_and_named(photographs: Path, tmp_path: Path) -> None:
    good = shutil.copy(photographs / "class_00" / "0.png", tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = ImageSet(np.array([0, 1, 0]), ("a", "b"), paths=(Path(good), tmp_path / "bad.png", Path(good)))
    broken: dict[Path, str] = {}
    vectors, kept = embed_images(raw_pixels, images, test_transform(8, "none"), workers=0, broken=broken)
    assert (len(vectors), kept.labels.tolist(), list(broken)) == (2, [0, 0], [tmp_path / "bad.png"])
    with pytest.raises(DataError, match=r"none of 1 images.*bad\.png"):
        embed_images(raw_pixels, images.subset([1]), test_transform(8, "none"), workers=0, broken={})
