"""The ROC curve of a verification system: true and false accepts at every threshold, and rates derived from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num
from torch import Tensor

from embedding_expansion.checks import as_share
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.arrays import as_array
from embedding_expansion.retrieval.threshold import Threshold, calibrate


@dataclass(frozen=True)
class VerificationCurve:
    """True and false accept rates of pairs, at every threshold of similarity.

    Attributes:
        thresholds: (t,), descending.
        true_accepts: (t,), the share of same-class pairs with a similarity of the threshold or more.
        false_accepts: (t,), the same share of the pairs of different classes.
        same: the number of same-class pairs.
        different: the number of pairs of different classes.
        looked_at: how many pairs of each kind were compared; fewer than `same` and `different` if they were sampled.
        exact: whether the curve has a threshold for the similarity of every pair, so that nothing is rounded or
            sampled.
    """

    thresholds: Float[np.ndarray, " t"]
    true_accepts: Float[np.ndarray, " t"]
    false_accepts: Float[np.ndarray, " t"]
    same: int
    different: int
    looked_at: tuple[int, int]
    exact: bool

    @property
    def auc(self) -> float:
        """The area under the curve: the probability that a same-class pair is more similar; ties count half."""
        x, y = (np.concatenate([[0.0], part, [1.0]]) for part in (self.false_accepts, self.true_accepts))
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())

    @property
    def equal_error_rate(self) -> float:
        """The rate at which false accepts equal false rejects, interpolated linearly between thresholds."""
        x, y = (np.concatenate([[0.0], part, [1.0]]) for part in (self.false_accepts, self.true_accepts))
        gap = x - (1 - y)
        after = int((gap >= 0).argmax())
        share = -gap[after - 1] / (gap[after] - gap[after - 1])
        return float(x[after - 1] + share * (x[after] - x[after - 1]))

    @validates
    def tar_at(self, far: float) -> float:
        """The largest true accept rate at or below a false accept rate, without interpolation.

        Args:
            far: the false accept rate, 0 to 1.

        Raises:
            InvalidInput: `far` is not from 0 to 1.
        """
        far = as_share(far, "far")
        return float(self.true_accepts[self.false_accepts <= far].max(initial=0.0))

    @property
    def precisions(self) -> Float[np.ndarray, " t"]:
        """The share of same-class pairs among all accepted pairs, at each threshold."""
        right, wrong = self.true_accepts * self.same, self.false_accepts * self.different
        share: np.ndarray = right / (right + wrong)
        return share

    @validates
    def threshold(self, *, false_alarm_rate: float | None = None, precision: float | None = None) -> Threshold:
        """Chooses the threshold that accepts the most same-class pairs and keeps a false-alarm rate or a precision.

        Pass one of the two.

        Args:
            false_alarm_rate: the largest share of pairs of different classes that may be accepted, 0 to 1.
            precision: the smallest share of accepted pairs that must be of one class, 0 to 1, if same-class pairs are
                as frequent as in this data.

        Raises:
            InvalidInput: both or neither are given, the value is not from 0 to 1, or no threshold keeps it.
        """
        curve = (self.thresholds, self.true_accepts, self.false_accepts, self.precisions)
        return calibrate("same or not", *curve, self.looked_at, false_alarm_rate, precision)


@validates
def verification_of_pairs(
    similarities: Tensor | np.ndarray, is_same: Tensor | np.ndarray, *, totals: tuple[int, int] | None = None
) -> VerificationCurve:
    """Computes the exact curve of given pairs, such as those of a protocol.

    Args:
        similarities: m numbers; larger is more similar.
        is_same: m booleans, whether the pair is of one class.
        totals: the numbers of pairs of one class and of different classes, if the given pairs are a sample.

    Raises:
        InvalidInput: lengths that do not fit, NaN, or only one kind of pairs.
        InvalidType: `is_same` is not boolean, or `similarities` are not numbers.

    Example:
        >>> curve = verification_of_pairs(np.array([0.9, 0.6, 0.7, 0.1]), np.array([True, True, False, False]))
        >>> curve.auc, curve.equal_error_rate, curve.tar_at(0.0)
        (0.75, 0.5, 0.5)

    Source: T. Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 2006.
    Differs from the source: nothing.
    """
    values, same = as_array(similarities, "similarities"), as_array(is_same, "is_same")
    if values.ndim != 1 or values.shape != same.shape:
        raise InvalidInput(f"similarities has the shape {values.shape} but is_same {same.shape}; pass two flat arrays")
    if same.dtype != np.bool_:
        raise InvalidType(f"is_same has the type {same.dtype}; pass one true or false per pair")
    if values.dtype.kind not in "fiu":
        raise InvalidType(f"similarities has the type {values.dtype}; pass floating-point numbers")
    if np.isnan(values).any():
        raise InvalidInput(
            f"{int(np.isnan(values).sum())} of {len(values)} similarities are NaN; leave these pairs out"
        )
    known, position = np.unique(-values.astype(np.float64), return_inverse=True)
    counts = [np.bincount(position[kind], minlength=len(known)) for kind in (same, ~same)]
    return curve_of_counts(-known, counts[0], counts[1], totals, exact=totals is None)


def curve_of_counts(
    thresholds: Float[np.ndarray, " t"],
    same: Num[np.ndarray, " t"],
    different: Num[np.ndarray, " t"],
    totals: tuple[int, int] | None,
    *,
    exact: bool,
) -> VerificationCurve:
    """Computes the curve from a histogram: the pairs of each kind from each threshold up to the threshold before it."""
    looked_at = int(same.sum()), int(different.sum())
    if 0 in looked_at:
        raise InvalidInput(
            f"there are {looked_at[0]} pairs of one class and {looked_at[1]} pairs of different classes; pass pairs of "
            "both kinds"
        )
    some: Bool[np.ndarray, " t"] = (same > 0) | (different > 0)
    accepts, false_accepts = (kind[some].cumsum() / kind.sum() for kind in (same, different))
    return VerificationCurve(thresholds[some], accepts, false_accepts, *(totals or looked_at), looked_at, exact)
