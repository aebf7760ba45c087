"""Same or not, known or unknown: curves against slow loops over pairs and queries, and thresholds that travel."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval import verification as module
from embedding_expansion.retrieval.open_set import open_set
from embedding_expansion.retrieval.roc import verification_of_pairs
from embedding_expansion.retrieval.threshold import Threshold
from embedding_expansion.retrieval.verification import verification


def classes(n: int, seed: int, c: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.concatenate([[0, 0, 1], random.integers(0, c, n - 3)])
    return random.normal(size=(c, 6))[labels] + random.normal(size=(n, 6)), labels


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def pairs_of(rows: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[float]]:
    """The cosines of the pairs of one class, and of different classes."""
    found: tuple[list[float], list[float]] = ([], [])
    for i, j in combinations(range(len(rows)), 2):
        found[int(labels[i] != labels[j])].append(cosine(rows[i], rows[j]))
    return found


def share(values: list[float], threshold: float) -> float:
    return sum(value >= threshold for value in values) / len(values)


@given(st.integers(0, 10**6), st.integers(4, 40))
def test_every_point_of_the_curve_and_its_area_equal_a_loop_over_pairs(seed: int, n: int) -> None:
    rows, labels = classes(n, seed)
    same, different = pairs_of(rows, labels)
    found = verification(rows, labels)
    assert found.exact
    assert (found.same, found.different) == (len(same), len(different)) == found.looked_at
    for threshold, accepted, false in zip(found.thresholds, found.true_accepts, found.false_accepts, strict=True):
        assert accepted == pytest.approx(share(same, threshold - 1e-9))
        assert false == pytest.approx(share(different, threshold - 1e-9))
    wins = sum((a > b) + (a == b) / 2 for a in same for b in different) / len(same) / len(different)
    assert found.auc == pytest.approx(wins, abs=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_ties_count_half_as_in_scikit_learn_and_rates_are_those_of_the_best_threshold(seed: int, values: int) -> None:
    random = np.random.default_rng(seed)
    scores, same = random.integers(0, values, 60).astype(float), np.arange(60) % 3 == 0
    found = verification_of_pairs(scores, same)
    assert found.auc == pytest.approx(roc_auc_score(same, scores))
    for far in (0.0, 0.2, 1.0):
        rates = [share(list(scores[same]), t) for t in range(values) if share(list(scores[~same]), t) <= far]
        assert found.tar_at(far) == pytest.approx(max(rates, default=0))


def test_the_equal_error_rate_is_where_both_errors_meet() -> None:
    same, different = np.arange(100) + 40.5, np.arange(100.0)
    found = verification_of_pairs(np.concatenate([same, different]), np.arange(200) < 100)
    assert found.equal_error_rate == pytest.approx(0.3)
    apart = verification_of_pairs(np.array([2.0, 1.0]), np.array([True, False]))
    assert (apart.equal_error_rate, apart.auc) == (0, 1)
    upside_down = verification_of_pairs(np.array([1.0, 2.0]), np.array([True, False]))
    assert (upside_down.equal_error_rate, upside_down.auc) == (1, 0)
    same_everywhere = verification_of_pairs(np.ones(4), np.array([True, False, True, False]))
    assert (same_everywhere.equal_error_rate, same_everywhere.auc) == (0.5, 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_counting_in_bins_has_exact_rates_at_its_thresholds(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, labels = classes(45, 0)
    stored = torch.from_numpy(rows).to(dtype)
    whole = verification(stored, labels)
    monkeypatch.setattr(module, "KEPT", 1)
    monkeypatch.setattr(module, "PIECE", 20)
    binned = verification(stored, labels)
    assert (whole.exact, binned.exact) == (True, False)
    assert (binned.same, binned.different) == (whole.same, whole.different)
    same, different = pairs_of(stored.double().numpy(), labels)
    for threshold, accepted, false in zip(binned.thresholds, binned.true_accepts, binned.false_accepts, strict=True):
        slack = 1e-6  # a cosine as near as this to the edge of a bin may fall to either side in float32
        assert share(same, threshold + slack) <= accepted <= share(same, threshold - slack)
        assert share(different, threshold + slack) <= false <= share(different, threshold - slack)
    assert binned.auc == pytest.approx(whole.auc, abs=1e-4)


def test_a_sample_comes_near_and_keeps_the_frequency_of_pairs_for_the_precision() -> None:
    rows, labels = classes(200, 1)
    whole, drawn = verification(rows, labels), verification(rows, labels, sample=40_000)
    assert drawn.looked_at == (40_000, 40_000)
    assert (drawn.same, drawn.different) == (whole.same, whole.different)
    assert drawn.auc == pytest.approx(whole.auc, abs=0.01)
    assert drawn.equal_error_rate == pytest.approx(whole.equal_error_rate, abs=0.01)
    threshold = whole.threshold(precision=0.5)
    at = int((drawn.thresholds >= threshold.value).sum()) - 1
    assert drawn.precisions[at] == pytest.approx(threshold.reached, abs=0.03)
    assert not drawn.exact


@given(st.integers(0, 10**6))
def test_drawn_pairs_are_of_the_kind_they_stand_for_and_uniform(seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.array([0, 0, 1, 1, 1, 2]))
    first, second = (side.numpy() for side in module._drawn(labels, 6000, np.random.default_rng(seed)))
    assert (first != second).all()
    assert (labels[first] == labels[second]).tolist() == [True] * 6000 + [False] * 6000
    for part, kinds in ((slice(0, 6000), 4), (slice(6000, None), 11)):
        pairs = np.sort(np.stack([first[part], second[part]], axis=1), axis=1)
        counts = np.unique(pairs, axis=0, return_counts=True)[1]
        assert len(counts) == kinds
        assert counts.min() > 0.75 * 6000 / kinds
        assert counts.max() < 1.25 * 6000 / kinds


@given(st.integers(0, 10**6), st.sampled_from([{"false_alarm_rate": 0.1}, {"precision": 0.6}]))
def test_a_threshold_keeps_what_was_asked_and_none_accepts_more(seed: int, goal: dict[str, float]) -> None:
    rows, labels = classes(40, seed)
    curve = verification(rows, labels)
    found = curve.threshold(**goal)
    same, different = pairs_of(rows, labels)

    def reached(threshold: float) -> float:
        right, wrong = (sum(value >= threshold - 1e-9 for value in kind) for kind in (same, different))
        return wrong / len(different) if "false_alarm_rate" in goal else -right / (right + wrong)

    bound = goal.get("false_alarm_rate", -goal.get("precision", 0)) + 1e-12
    assert abs(reached(found.value)) == pytest.approx(found.reached)
    best = max(share(same, t - 1e-9) for t in same + different if reached(t) <= bound)
    assert found.hit_rate == pytest.approx(best)
    assert (found.positives, found.negatives) == (len(same), len(different))


@given(st.integers(0, 10**6))
def test_open_set_rates_equal_a_loop_over_queries(seed: int) -> None:
    rows, labels = classes(40, seed)
    is_gallery = (labels < 3) & (np.random.default_rng(seed).random(40) < 0.7)
    is_gallery[:2], labels[3] = True, 4
    is_gallery[3] = False
    # One row at least of each kind searches; a row of both sides would give two cosines that differ by rounding alone.
    is_query = ~is_gallery
    labels[2] = 0
    is_gallery[2], is_query[2] = False, True
    known, unknown, right = [], [], []
    for i in np.flatnonzero(is_query):
        others = np.flatnonzero(is_gallery).tolist()
        nearest = max(others, key=lambda j: cosine(rows[i], rows[j]))
        score = cosine(rows[i], rows[nearest])
        in_gallery = any(labels[j] == labels[i] for j in others)
        (known if in_gallery else unknown).append(score)
        right.append(score if in_gallery and labels[nearest] == labels[i] else -2)
    found = open_set(rows, labels, is_query=is_query, is_gallery=is_gallery)
    assert (found.known, found.unknown) == (len(known), len(unknown))
    for t, detected, identified, alarms in zip(
        found.thresholds - 1e-9, found.detection, found.identification, found.false_alarms, strict=True
    ):
        assert detected == pytest.approx(share(known, t))
        assert identified == pytest.approx(sum(score >= t for score in right) / len(known))
        assert alarms == pytest.approx(share(unknown, t))
    wins = sum((a > b) + (a == b) / 2 for a in known for b in unknown) / len(known) / len(unknown)
    assert found.auc == pytest.approx(wins)
    for rate in (0.0, 0.3):
        allowed = [t for t in known + unknown if share(unknown, t) <= rate]
        assert found.detection_at(rate) == pytest.approx(max((share(known, t) for t in allowed), default=0))
        best = max((sum(score >= t for score in right) / len(known) for t in allowed), default=0)
        assert found.dir_at(rate) == pytest.approx(best)


def test_a_query_in_the_gallery_is_known_only_by_another_row_of_its_class() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = open_set(rows, [0, 0, 1])
    assert (found.known, found.unknown) == (2, 1)
    assert found.dir_at(0.0) == 1
    assert found.thresholds[-1] == pytest.approx(cosine(rows[2], rows[1]))


def test_an_open_set_threshold_answers_what_it_should() -> None:
    gallery = np.eye(3)
    queries = np.array([[1, 0.1, 0], [0, 1, 0.2], [0.3, 0.2, 1], [-1, -1, 0.1], [1, 1, 1], [1, 0.2, 0.1]])
    curve = open_set(queries, [0, 1, 2, 7, 8, 1], gallery=gallery, gallery_labels=[0, 1, 2])
    by_alarms, by_precision = curve.threshold(false_alarm_rate=0.0), curve.threshold(precision=0.75)
    assert (by_alarms.task, by_alarms.goal, by_alarms.reached) == ("known or unknown", "false alarm rate", 0)
    assert (by_alarms.positives, by_alarms.negatives) == (4, 2)
    # The last query is nearest to a row of another class: three right answers of four.
    assert by_precision.reached == 0.75
    assert by_precision.hit_rate == 0.75
    assert by_alarms.accepts(torch.tensor([0.99, 0.1])).tolist() == [True, False]


THRESHOLD = Threshold(0.7, "same or not", "precision", 0.99, 0.993, 0.81, 4000, 250000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": None}, "value of the threshold is None"),
        ({"value": float("nan")}, "value of the threshold is nan"),
        ({"positives": 1.5}, "positives of the threshold is 1.5"),
        ({"reached": True}, "reached of the threshold is True"),
        ({"goal": "luck"}, "the threshold is for 'same or not' by 'luck'"),
        ({"task": ["x"]}, "the threshold is for"),
        ({"more": 1}, "the threshold has the keys goal, hit_rate, more"),
    ],
)
def test_json_that_is_no_threshold_is_told(change: dict[str, object], message: str) -> None:
    content = json.loads(THRESHOLD.to_json()) | change
    with pytest.raises(InvalidInput, match=message):
        Threshold.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "[1]", "{}", "null", "{"])
def test_text_that_is_no_threshold_is_told(text: str) -> None:
    with pytest.raises(InvalidInput, match="the threshold"):
        Threshold.from_json(text)


ROWS = np.eye(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: verification(ROWS, [0, 0, 0, 0]), InvalidInput, "6 pairs of one class and 0 pairs of different"),
        (lambda: verification(ROWS, [0, 1, 2, 3]), InvalidInput, "0 pairs of one class and 6 pairs of different"),
        (lambda: verification(ROWS, [0, 0, 1, 1], sample=0), InvalidInput, "sample is 0"),
        (lambda: verification(ROWS, [0, 0, 1]), InvalidInput, "labels has 3 entries"),
        (lambda: verification(ROWS, [0, 0, 1, 1]).tar_at(2), InvalidInput, "far is 2; pass a share"),
        (lambda: verification(ROWS, [0, 0, 1, 1]).threshold(), InvalidInput, "pass one of false_alarm_rate and"),
        (lambda: verification(ROWS, [0, 0, 1, 1]).threshold(precision=1.5), InvalidInput, "precision is 1.5"),
        (lambda: verification(ROWS, [0, 0, 1, 1]).threshold(precision=0.9), InvalidInput, "the best has 0.333"),
        (lambda: verification_of_pairs(np.ones(2), np.ones(3, bool)), InvalidInput, r"has the shape \(2,\)"),
        (lambda: verification_of_pairs(np.ones(2), np.ones(2)), InvalidType, "is_same has the type float64"),
        (
            lambda: verification_of_pairs(np.array([np.nan, 1]), np.array([True, False])),
            InvalidInput,
            "1 of 2 similarities are NaN",
        ),
        (lambda: open_set(ROWS, [0, 0, 1, 1]), InvalidInput, "4 of 4 queries have a row of their class"),
        (lambda: open_set(ROWS, [0, 1, 2, 3]), InvalidInput, "0 of 4 queries have a row of their class"),
        (
            lambda: open_set(ROWS, [0, 0, 1, 1], is_gallery=[True, False, False, False]),
            InvalidInput,
            "the only gallery row is the query itself",
        ),
    ],
)
def test_nonsense_is_told_in_one_sentence(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]
