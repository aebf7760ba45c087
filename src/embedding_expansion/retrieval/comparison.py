"""Statistics of paired values, such as those of the same queries or seeds: how much they differ, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
#: Samples of the bootstrap over test classes.
SAMPLES = 2_000


@dataclass(frozen=True)
class Difference:
    """The mean difference of paired values.

    Attributes:
        mean: the mean difference.
        low, high: its interval at 95%, by Student's t; infinite with one pair.
        p: of the two-sided paired t-test; 1 with one pair, or if all differences are 0.
        pairs: the number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    pairs: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def paired(plain: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Compares the values of the seeds, queries or the like that both have; None if there are none."""
    seeds = sorted(plain.keys() & other.keys())
    if not seeds:
        return None
    values = np.array([other[seed] - plain[seed] for seed in seeds])
    mean, count = float(values.mean()), len(values)
    if count == 1:
        return Difference(mean, -np.inf, np.inf, 1.0, 1)
    error = float(values.std(ddof=1)) / count**0.5
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
    p = float(2 * stdtr(count - 1, -abs(mean) / error)) if error else float(mean == 0)
    return Difference(mean, mean - half, mean + half, p, count)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values, corrected for their number by Holm's step-down method (Holm, 1979), in the given order."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(value) for value in found]


def over_classes(
    plain: Mapping[int, Sequence[float | None]], other: Mapping[int, Sequence[float | None]]
) -> tuple[float, float] | None:
    """The interval at 95% of the mean difference over test classes, by a bootstrap of the classes.

    The seeds show how much a training varies; this shows how much other classes would change the difference. Every
    class has the same weight.

    Args:
        plain: the measure of each test class, by seed; None for classes without a value.
        other: the same for the arm.

    Returns:
        The percentiles 2.5 and 97.5 of the mean over classes, averaged over seeds first; None without shared seeds.
    """
    seeds = sorted(plain.keys() & other.keys())
    if not seeds:
        return None
    both: list[npt.NDArray[np.float64]] = [
        np.array([[float("nan") if value is None else value for value in side[seed]] for seed in seeds])
        for side in (plain, other)
    ]
    by_class = (both[1] - both[0]).mean(axis=0)
    by_class = by_class[~np.isnan(by_class)]
    draw = np.random.default_rng(0).integers(len(by_class), size=(SAMPLES, len(by_class)))
    low, high = np.percentile(by_class[draw].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
