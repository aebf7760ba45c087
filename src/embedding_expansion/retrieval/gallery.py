"""Known or unknown, for the gallery at hand: its classes, held out in turn, give its threshold. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import ROUNDING, TABLE_ENTRIES, as_cosines
from embedding_expansion.retrieval.threshold import Threshold, calibrate

if TYPE_CHECKING:
    from torch import Tensor

#: From this number of classes on, a gallery says how similar images of other classes are to it.
LEAST_CLASSES = 8
#: The most rows that are held out; of more a sample is. The gallery always has all of them.
QUERIES = 20_000
#: How sure it is, over the classes, that the false alarms of new classes stay within the limit.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class HeldOut:
    """The similarity of labelled rows to a gallery without them: without the row alone, and without its whole class.

    A row whose class is held out is a query of an unknown class, and a row that is held out alone is a query of a known
    one.

    Attributes:
        own: (q,), the cosine of the nearest other row of the same class; -inf if there is none.
        other: (q,), the cosine of the nearest row of another class.
        classes: (q,), the number of each row's class, 0 to c - 1.
        gallery: the number of rows of the gallery.
    """

    own: Float[np.ndarray, " q"]
    other: Float[np.ndarray, " q"]
    classes: Int[np.ndarray, " q"]
    gallery: int

    @classmethod
    def of(cls, rows: Float[np.ndarray, "n d"], classes: Int[np.ndarray, " n"]) -> HeldOut:
        """Holds out the rows of a gallery, or a sample of 20,000 of them.

        Args:
            rows: (n, d), of unit norm.
            classes: (n,), whole numbers.
        """
        numbers = np.arange(len(rows))
        chosen = sampled(len(rows))
        return held_out(rows[chosen], classes[chosen], numbers[chosen], [(rows, classes, numbers)])

    @property
    def count(self) -> int:
        """The number of classes."""
        return len(np.unique(self.classes))

    @validates
    def threshold(self, *, false_alarm_rate: float | None = None, precision: float | None = None) -> Threshold:
        """Chooses the threshold, see `gallery_threshold`.

        Raises:
            InvalidInput: both or neither are given, there are fewer than two classes, no class has two rows, or no
                threshold keeps the limit.
        """
        is_known = np.isfinite(self.own)
        if self.count < 2 or not is_known.any():
            raise InvalidInput(
                "known or unknown needs two classes, one of them with two images; label more images, or add some"
            )
        best = np.maximum(self.own, self.other)[is_known]
        is_right = (self.own >= self.other - ROUNDING)[is_known]
        thresholds = -np.unique(-np.concatenate([best, self.other]))
        detection, hits = _reaching(best, thresholds), _reaching(best[is_right], thresholds) * is_right.mean()
        rates, limits = self._false_alarms(thresholds)

        def chosen(growth: int) -> Threshold:
            # An image of a new class meets `growth` times as many rows, so that its false alarms at most multiply.
            expected = np.minimum(growth * limits, 1)
            # Known and unknown queries count as equally frequent.
            correct = hits / np.maximum(detection + expected, np.finfo(float).tiny)
            curve = (thresholds, hits, expected, correct)
            counts = (int(is_known.sum()), len(self.other))
            return calibrate("known or unknown", *curve, counts, false_alarm_rate, precision)

        found = chosen(1)
        try:
            twice = chosen(2).value
        except InvalidInput:
            twice = None
        at = int(np.flatnonzero(thresholds == found.value)[0])
        reached = rates[at] if precision is None else hits[at] / (detection[at] + rates[at])
        return replace(found, reached=float(reached), gallery=self.gallery, classes=self.count, twice=twice)

    def _false_alarms(
        self, thresholds: Float[np.ndarray, " t"]
    ) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
        """The share of rows of held-out classes that reach each threshold, and its upper limit for new classes.

        The rows of a class are alike, so the limit counts classes, not rows: it is the one-sided interval by Student's
        t for a ratio of sums over classes (W. G. Cochran, "Sampling Techniques", 1977, chapter 9A).
        """
        from scipy.special import stdtrit

        order = np.argsort(-self.other, kind="stable")
        sizes = np.bincount(self.classes)
        total, c = len(order), np.count_nonzero(sizes)
        classes = self.classes[order]
        # Row by row: the sum over classes of k, k^2 and k n, if k of the n rows of a class have come so far.
        k = np.arange(total + 1)
        squares = np.concatenate([[0], np.cumsum(2 * _earlier(classes) + 1)])
        products = np.concatenate([[0], np.cumsum(sizes[classes])])
        rate = k / total
        variance = (squares - 2 * rate * products + rate**2 * (sizes**2.0).sum()) * c / (c - 1)
        limit = rate + stdtrit(c - 1, CONFIDENCE) * np.sqrt(np.maximum(variance, 0)) / total
        at = np.searchsorted(-self.other[order], -thresholds, side="right")
        return rate[at], np.maximum.accumulate(limit)[at]


@validates
def gallery_threshold(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    *,
    false_alarm_rate: float | None = None,
    precision: float | None = None,
) -> Threshold:
    """Chooses the similarity from which a gallery knows a query, by holding out each of its classes in turn.

    A threshold belongs to a gallery: the more rows it has, the nearer is the nearest row of an unknown class. Here each
    row is one query of an unknown class, compared with all rows of the other classes, and, if its class has another
    row, one query of a known class. The threshold has the most correct answers of those whose false alarms stay within
    the limit with a confidence of 95% over the classes; with few classes it is therefore stricter.

    Pass one of the two limits.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm: the gallery.
        labels: n whole numbers of up to 64 bits.
        false_alarm_rate: the largest share of images of unknown classes that may count as known, 0 to 1.
        precision: the smallest share of answers that must be correct, 0 to 1, if unknown queries are as frequent as
            known ones.

    Returns:
        A threshold that knows the size of its gallery. `Threshold.at` gives its value for a gallery that has grown.

    Raises:
        InvalidInput: sizes that do not fit, non-finite entries, both or neither of the limits, fewer than two classes,
            no class with two rows, or no threshold that keeps the limit.
        InvalidType: an argument of the wrong type.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [-1.0, 0.0], [-0.9, 0.1]])
        >>> threshold = gallery_threshold(rows, [0, 0, 1, 1, 2, 2], false_alarm_rate=0.1)
        >>> round(threshold.value, 3), threshold.gallery, threshold.classes
        (0.994, 6, 3)
    """
    from embedding_expansion.retrieval.inputs import class_indices, embedding_rows, unit_rows  # torch

    rows = embedding_rows(embeddings)
    classes = class_indices(labels, len(rows))
    units: Any = unit_rows(rows)[:].float().cpu().numpy()
    return HeldOut.of(units, classes).threshold(false_alarm_rate=false_alarm_rate, precision=precision)


def sampled(n: int) -> Bool[np.ndarray, " n"]:
    """Which of n rows are held out: all, or a random sample of 20,000, always the same."""
    found = np.zeros(n, np.bool_)
    found[np.random.default_rng(0).permutation(n)[:QUERIES]] = True
    return found


def held_out(
    queries: Float[np.ndarray, "q d"],
    classes: Int[np.ndarray, " q"],
    rows: Int[np.ndarray, " q"],
    gallery: Iterable[tuple[Float[np.ndarray, "_ d"], Int[np.ndarray, " _"], Int[np.ndarray, " _"]]],
) -> HeldOut:
    """Compares rows of a gallery with the rest of it, one bounded block of the similarity table at a time.

    Args:
        queries: (q, d), float32, unit norm.
        classes: (q,), their classes.
        rows: (q,), a number for each query, which its row in the gallery has, too.
        gallery: the vectors, classes and numbers of all rows, in batches.
    """
    own, other = np.full(len(queries), -np.inf, np.float32), np.full(len(queries), -np.inf, np.float32)
    total = 0
    for vectors, labels, numbers in gallery:
        size = max(1, TABLE_ENTRIES // 4 // max(len(vectors), 1))
        for first in range(0, len(queries), size):
            block = slice(first, first + size)
            table = queries[block] @ vectors.T
            is_own = classes[block, None] == labels
            other[block] = np.maximum(other[block], _largest(table, ~is_own))
            own[block] = np.maximum(own[block], _largest(table, is_own & (rows[block, None] != numbers)))
        total += len(vectors)
    classes = np.unique(classes, return_inverse=True)[1]
    return HeldOut(as_cosines(own.astype(float)), as_cosines(other.astype(float)), classes, total)


def _largest(table: Float[np.ndarray, "q n"], kept: Bool[np.ndarray, "q n"]) -> Float[np.ndarray, " q"]:
    found: np.ndarray = np.where(kept, table, -np.inf).max(axis=1, initial=-np.inf)
    return found


def _reaching(scores: Float[np.ndarray, " n"], thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """The share of scores that reach each of the thresholds, which descend."""
    found: np.ndarray = np.searchsorted(np.sort(-scores), -thresholds, side="right") / max(len(scores), 1)
    return found


def _earlier(classes: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many rows of the same class come before each row."""
    order = np.argsort(classes, kind="stable")
    sizes = np.bincount(classes)
    found = np.empty(len(classes), np.int64)
    found[order] = np.arange(len(classes)) - np.repeat(sizes.cumsum() - sizes, sizes)
    return found
