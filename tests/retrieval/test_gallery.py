"""The threshold of a gallery: against plain loops over held-out classes, its laws, and classes that it never saw."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from embedding_expansion import gallery_threshold
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.gallery import held_out
from embedding_expansion.retrieval.threshold import Threshold


def drawn(classes: int, each: int, *, seed: int = 0, spread: float = 0.8, width: int = 8) -> tuple[Any, Any]:
    """Unit vectors around the centre of their class."""
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(classes), each)
    rows = random.normal(size=(classes, width))[labels] + spread * random.normal(size=(len(labels), width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def plain_threshold(rows: npt.NDArray[Any], labels: npt.NDArray[Any], goal: str, wanted: float, growth: int) -> Any:
    """(value, reached, share of known queries identified), row by row and class by class."""
    known, unknown = list[tuple[float, bool]](), dict[int, list[float]]()
    for at, label in enumerate(labels):
        others = [float(rows[at] @ rows[to]) for to in np.flatnonzero(labels != label)]
        own = [float(rows[at] @ rows[to]) for to in np.flatnonzero(labels == label) if to != at]
        unknown.setdefault(int(label), []).append(max(others))
        if own:
            known.append((max(*own, *others), max(own) >= max(others)))
    found = None
    highest = 0.0  # the limit never falls with the threshold
    values = sorted({score for score, _ in known} | {score for scores in unknown.values() for score in scores})
    for value in reversed(values):
        counts = [(sum(score >= value for score in scores), len(scores)) for scores in unknown.values()]
        total = sum(n for _, n in counts)
        rate = sum(k for k, _ in counts) / total
        c = len(counts)
        error = sum((k - rate * n) ** 2 for k, n in counts) * c / (c - 1)
        highest = max(highest, rate + float(stats.t.ppf(0.95, c - 1)) * error**0.5 / total)
        limit = min(1.0, growth * highest)
        hits = sum(right and score >= value for score, right in known) / len(known)
        answered = sum(score >= value for score, _ in known) / len(known)
        fits = limit <= wanted if goal == "false_alarm_rate" else hits / (answered + limit) >= wanted
        if fits and (found is None or hits > found[2]):
            found = (value, rate if goal == "false_alarm_rate" else hits / (answered + rate), hits)
    return found


@pytest.mark.parametrize("goal", [("false_alarm_rate", 0.1), ("false_alarm_rate", 0.4), ("precision", 0.6)])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_one_that_plain_loops_find(seed: int, goal: tuple[str, float]) -> None:
    sizes = np.random.default_rng(seed).integers(1, 5, size=3 + seed % 5).tolist()
    sizes[0] = 4
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = drawn(len(sizes), 4, seed=seed)[0].reshape(len(sizes), 4, -1)
    rows = np.concatenate([part[:size] for part, size in zip(rows, sizes, strict=True)])
    expected = plain_threshold(rows, labels, *goal, growth=1)
    if expected is None:
        with pytest.raises(InvalidInput, match="no threshold has a"):
            gallery_threshold(rows, labels, **{goal[0]: goal[1]})
        return
    found = gallery_threshold(rows, labels, **{goal[0]: goal[1]})
    assert (found.value, found.reached, found.hit_rate) == pytest.approx(expected, abs=1e-6)
    assert (found.gallery, found.classes, found.negatives) == (len(rows), len(sizes), len(rows))
    assert found.positives == sum(size for size in sizes if size > 1)
    doubled = plain_threshold(rows, labels, *goal, growth=2)
    assert found.twice == (None if doubled is None else pytest.approx(doubled[0], abs=1e-6))


def test_false_alarms_of_classes_it_never_saw_stay_within_the_limit() -> None:
    ratios, detected = list[float](), list[float]()
    for seed in range(30):
        rows, labels = drawn(60, 12, seed=seed)
        inside = labels < 15
        is_query = np.arange(len(rows)) % 2 == 0
        gallery = rows[inside & ~is_query]
        threshold = gallery_threshold(gallery, labels[inside & ~is_query], false_alarm_rate=0.1)
        ratios.append(float(threshold.accepts((rows[~inside] @ gallery.T).max(1)).mean()) / 0.1)
        detected.append(float(threshold.accepts((rows[inside & is_query] @ gallery.T).max(1)).mean()))
    assert statistics.mean(ratios) < 1
    assert sum(ratio <= 1.5 for ratio in ratios) >= 28
    assert statistics.mean(detected) > 2 * 0.1 * statistics.mean(ratios)  # known queries pass far more often


def test_a_gallery_that_grows_needs_a_higher_value_and_beyond_twice_there_is_none() -> None:
    rows, labels = drawn(20, 10, seed=1)
    found = gallery_threshold(rows, labels, false_alarm_rate=0.1)
    values = [found.at(size) for size in (1, 200, 240, 300, 400)]
    assert values[0] == values[1] == found.value
    assert values == sorted(values)
    assert values[-1] == found.twice
    assert found.at(401) is None
    assert Threshold(0.5, "known or unknown", "precision", 0.9, 0.9, 0.5, 10, 10).at(10**9) == 0.5  # of an older file


def test_the_gallery_in_batches_gives_the_same_as_in_one() -> None:
    rows, labels = drawn(9, 7, seed=2)
    rows = rows.astype(np.float32)
    numbers = np.random.default_rng(0).permutation(1000)[: len(rows)]
    whole = held_out(rows, labels, numbers, [(rows, labels, numbers)])
    cuts = [slice(0, 5), slice(5, 40), slice(40, 63)]
    parts = held_out(rows, labels, numbers, [(rows[cut], labels[cut], numbers[cut]) for cut in cuts])
    np.testing.assert_allclose(parts.own, whole.own, atol=1e-6)
    np.testing.assert_allclose(parts.other, whole.other, atol=1e-6)
    assert parts.gallery == whole.gallery == 63


def test_repeated_images_of_one_class_are_right_and_of_two_classes_false_alarms() -> None:
    rows = np.eye(12).repeat(2, 0)
    assert gallery_threshold(rows, np.arange(24) // 2, false_alarm_rate=0).value == 1
    with pytest.raises(InvalidInput, match=r"no threshold has a false alarm rate of 0\.5, the best has 1"):
        gallery_threshold(rows, np.arange(24) % 2, false_alarm_rate=0.5)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_one_class_or_single_images_only_are_a_sentence(labels: list[int]) -> None:
    with pytest.raises(InvalidInput, match="known or unknown needs two classes, one of them with two images"):
        gallery_threshold(np.eye(4), labels, false_alarm_rate=0.1)
