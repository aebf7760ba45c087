"""Faults of training data are of the size that they say, and touch nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from embedding_expansion.data.images import ImageSet
from embedding_expansion.evidence.faults import FAULTS, with_fault

SIZES = (60, 40, 40, 30, 30, 20, 20, 10)
LABELS = np.repeat(np.arange(1, 1 + len(SIZES)), SIZES)  # class 0 is held out, so that numbers and places differ
IMAGES = ImageSet(
    LABELS,
    tuple(f"class {number}" for number in range(1 + len(SIZES))),
    pixels=np.arange(len(LABELS), dtype=np.uint8).reshape(-1, 1, 1, 1),
)


@pytest.mark.parametrize("fault", [*FAULTS, ""])
def test_rows_lead_to_the_same_images_and_labels_stay_those_of_the_set(fault: str) -> None:
    found, rows = with_fault(IMAGES, fault, 3)
    assert IMAGES.pixels is not None
    assert found.pixels is not None
    np.testing.assert_array_equal(found.pixels, IMAGES.pixels[rows])
    assert set(found.labels) <= set(LABELS)
    assert found.class_names == IMAGES.class_names


@pytest.mark.parametrize("fault", FAULTS)
def test_the_seed_decides(fault: str) -> None:
    (first, rows), (same, again) = (with_fault(IMAGES, fault, 3) for _ in range(2))
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(first.labels, same.labels)
    other, other_rows = with_fault(IMAGES, fault, 4)
    assert not (np.array_equal(other.labels, first.labels) and np.array_equal(other_rows, rows))


@pytest.mark.parametrize(("fault", "share"), [("wrong10", 0.1), ("wrong30", 0.3)])
def test_just_that_share_of_the_labels_is_wrong(fault: str, share: float) -> None:
    found, rows = with_fault(IMAGES, fault, 3)
    np.testing.assert_array_equal(rows, np.arange(len(LABELS)))
    assert (found.labels != LABELS).sum() == round(share * len(LABELS))


def test_a_tenth_of_the_images_is_there_again_under_another_label() -> None:
    found, rows = with_fault(IMAGES, "twice", 3)
    added = found.labels[len(LABELS) :]
    assert len(added) == round(0.1 * len(LABELS))
    assert (added != LABELS[rows[len(LABELS) :]]).all()
    np.testing.assert_array_equal(found.labels[: len(LABELS)], LABELS)


def test_a_long_tail_falls_from_50_to_2_with_every_class_still_there() -> None:
    wide = ImageSet(np.repeat(np.arange(6), 80), tuple("abcdef"), pixels=np.zeros((480, 1, 1, 1), np.uint8))
    found, _ = with_fault(wide, "tail", 3)
    sizes = sorted(np.bincount(found.labels).tolist(), reverse=True)
    assert sizes[0] == 50
    assert sizes[-1] == 2
    ratios = np.array(sizes[1:]) / np.array(sizes[:-1])
    assert (abs(ratios - (2 / 50) ** 0.2) < 0.1).all()  # exponentially, but for rounding
    assert np.bincount(with_fault(IMAGES, "tail", 3)[0].labels)[1:].min() == 2
