"""The threshold of an index: calibrated on its labelled items, again when they grow, refused where it cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_expansion import gallery_threshold
from embedding_expansion.inference.gallery import (
    NOTE,
    KnownFrom,
    calibrate_gallery,
    calibrate_if_changed,
    known_from,
    thresholds_of,
)
from embedding_expansion.inference.thresholds import THRESHOLDS, Goal, thresholds_json, write_thresholds
from embedding_expansion.retrieval.index import Index, Item, create_index
from embedding_expansion.retrieval.threshold import Threshold

OF_MODEL = Threshold(
    0.6, "known or unknown", "false alarm rate", 0.2, 0.2, 0.8, 50, 50, gallery=50, classes=9, twice=0.7
)


def rows_of(classes: range, each: int = 6) -> tuple[Any, list[int]]:
    labels = [number for number in classes for _ in range(each)]
    near = [np.random.default_rng(number).normal(size=12) for number in labels]
    rows = np.array(near) + 0.7 * np.random.default_rng(len(labels) + classes[0]).normal(size=(len(labels), 12))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def add(index: Index, classes: range, *, labelled: bool = True) -> tuple[Any, list[int]]:
    """Adds six items of each class, as a load does."""
    rows, labels = rows_of(classes)
    items = [Item(f"{label}-{at}-{labelled}.jpg", str(label) if labelled else None) for at, label in enumerate(labels)]
    calibrate_if_changed(index, index.add(items, rows).changed)
    return rows, labels


@pytest.fixture
def index(tmp_path: Path) -> Any:
    with create_index(tmp_path / "index", dimensions=12) as made:
        yield made


def give_model(index: Index, tmp_path: Path, threshold: Threshold = OF_MODEL) -> None:
    write_thresholds(tmp_path, {"known or unknown": threshold})
    index.files.put(tmp_path / THRESHOLDS)


def value(index: Index) -> KnownFrom:
    return known_from(index, thresholds_of(index))


def test_an_index_of_labelled_images_calibrates_itself_for_five_percent(index: Index) -> None:
    rows, labels = add(index, range(10))
    expected = gallery_threshold(rows, labels, false_alarm_rate=0.05)
    found = thresholds_of(index)["known or unknown"]
    assert found.value == pytest.approx(expected.value, abs=1e-6)
    assert (found.wanted, found.gallery, found.classes) == (0.05, 60, 10)
    assert found.data == "60 images of 10 classes of the index itself"
    assert value(index) == KnownFrom(found.value)


def test_it_is_calibrated_again_when_it_has_grown_by_half_and_raised_before(index: Index) -> None:
    add(index, range(10))
    first = thresholds_of(index)["known or unknown"]
    add(index, range(10, 14))  # 40% more
    assert thresholds_of(index)["known or unknown"] == first
    assert value(index) == KnownFrom(first.at(84))
    add(index, range(14, 15))
    again = thresholds_of(index)["known or unknown"]
    assert (again.gallery, again.classes) == (90, 15)
    assert value(index) == KnownFrom(again.value)


def test_other_labels_for_half_of_it_calibrate_it_again(index: Index) -> None:
    add(index, range(10))
    first = thresholds_of(index)["known or unknown"]
    rows, labels = rows_of(range(10))
    items = [Item(f"{label}-{at}-True.jpg", str(at % 10)) for at, label in enumerate(labels)]
    calibrate_if_changed(index, index.add(items[:20], rows[:20]).changed)
    assert thresholds_of(index)["known or unknown"] == first
    calibrate_if_changed(index, index.add(items[20:60], rows[20:60]).changed)
    limit = value(index)  # among images of all classes under each label, nothing separates known from unknown
    assert limit.value is None
    assert "the index has no threshold of its own: no threshold has a false alarm rate of 0.05" in limit.reason


def test_the_goal_is_that_of_the_last_calibration_or_of_the_model(index: Index, tmp_path: Path) -> None:
    give_model(index, tmp_path)
    add(index, range(10))
    assert thresholds_of(index)["known or unknown"].wanted == 0.2
    calibrate_gallery(index, Goal(precision=0.7))
    add(index, range(10, 20))
    found = thresholds_of(index)["known or unknown"]
    assert (found.goal, found.wanted, found.classes) == ("precision", 0.7, 20)


def test_below_eight_classes_the_model_s_threshold_is_used_and_said(index: Index, tmp_path: Path) -> None:
    add(index, range(7))
    reason = "the index has labels of 7 classes, too few for a threshold of its own, which needs 8"
    assert value(index) == KnownFrom(None, reason)
    give_model(index, tmp_path)
    assert value(index) == KnownFrom(OF_MODEL.value, f"{reason}; the threshold is that of its model")
    add(index, range(7, 8))
    assert thresholds_of(index)["known or unknown"].classes == 8
    assert value(index).reason == ""


def test_beyond_twice_its_size_a_threshold_is_refused(index: Index, tmp_path: Path) -> None:
    give_model(index, tmp_path)
    add(index, range(10), labelled=False)  # 60 images; the threshold is for 50
    assert value(index) == KnownFrom(OF_MODEL.at(60))
    add(index, range(10, 17), labelled=False)  # 102 in all
    limit = value(index)
    assert limit.value is None
    assert "calibrated for up to 50 images, too few for the 102 of this index" in limit.reason


def test_the_threshold_of_pairs_stays_when_the_gallery_is_calibrated(index: Index) -> None:
    pairs = Threshold(0.9, "same or not", "precision", 0.9, 0.95, 0.8, 4, 8)
    index.set_note(NOTE, thresholds_json({"same or not": pairs}))
    add(index, range(9))
    assert thresholds_of(index)["same or not"] == pairs
    assert thresholds_of(index)["known or unknown"].classes == 9


def test_a_large_index_is_sampled_and_read_in_batches(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    add(index, range(12))
    whole = thresholds_of(index)["known or unknown"]
    monkeypatch.setattr("embedding_expansion.retrieval.gallery.QUERIES", 50)
    calibrate_gallery(index)
    part = thresholds_of(index)["known or unknown"]
    assert (part.negatives, part.gallery) == (50, whole.gallery)
    assert abs(part.value - whole.value) < 0.2
