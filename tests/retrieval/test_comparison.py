"""The statistics, against SciPy's tests and against counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from embedding_expansion.retrieval.comparison import holm, over_classes, paired

VALUES = np.random.default_rng(3).normal([[60.0], [61.5]], 2.0, (2, 7))
PLAIN, OTHER = (dict(enumerate(row.tolist(), start=1)) for row in VALUES)


def test_a_paired_difference_is_that_of_a_paired_t_test() -> None:
    found = paired(PLAIN, OTHER)
    assert found is not None
    tested = stats.ttest_rel(VALUES[1], VALUES[0])
    low, high = tested.confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx(((VALUES[1] - VALUES[0]).mean(), low, high))
    assert found.p == pytest.approx(tested.pvalue)
    assert found.half_width == pytest.approx((high - low) / 2)


def test_only_seeds_of_both_are_compared() -> None:
    found = paired(PLAIN | {99: 1000.0}, OTHER | {98: -1000.0})
    assert found == paired(PLAIN, OTHER)
    assert paired({1: 2.0}, {2: 2.0}) is None


def test_one_pair_says_nothing_about_how_sure_it_is() -> None:
    found = paired({4: 50.0}, {4: 53.0})
    assert found is not None
    assert (found.mean, found.low, found.high, found.p, found.pairs) == (3.0, -np.inf, np.inf, 1.0, 1)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (2.0, 0.0)])
def test_differences_that_are_all_alike(shift: float, p: float) -> None:
    found = paired({1: 50.0, 2: 60.0}, {1: 50.0 + shift, 2: 60.0 + shift})
    assert found is not None
    assert (found.mean, found.low, found.high, found.p) == (shift, shift, shift, p)


def test_holm_rejects_what_its_definition_rejects() -> None:
    """Holm rejects in ascending order as long as p(k) <= level / (m - k), and nothing after the first that fails."""
    draw = np.random.default_rng(5)
    for level, count in itertools.product((0.01, 0.05, 0.2), (1, 2, 5, 9)):
        p = (draw.random(count) ** 3).tolist()
        rejected, order = set(), sorted(range(count), key=p.__getitem__)
        for place, at in enumerate(order):
            if p[at] > level / (count - place):
                break
            rejected.add(at)
        assert {at for at, value in enumerate(holm(p)) if value <= level} == rejected


def test_holm_of_ties_and_of_nothing() -> None:
    assert holm([]) == []
    assert holm([0.02, 0.02, 0.9]) == pytest.approx([0.06, 0.06, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_bootstrap_covers_the_mean_over_classes_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(11)
    plain = {seed: [0.0] * 40 for seed in (1, 2)}
    covered = 0
    for _ in range(100):
        own = draw.normal(0.3, 1.0, 40)
        low, high = over_classes(plain, {1: own.tolist(), 2: own.tolist()}) or (0.0, 0.0)
        covered += low <= 0.3 <= high
    assert 85 <= covered <= 100  # of 95 expected, with a standard deviation of 2


def test_the_bootstrap_leaves_out_classes_without_a_value() -> None:
    assert over_classes({1: [1.0, None, 3.0]}, {1: [2.0, None, 4.0]}) == (1.0, 1.0)
    assert over_classes({1: [1.0]}, {2: [1.0]}) is None
