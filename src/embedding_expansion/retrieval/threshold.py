"""Thresholds of similarity, calibrated on labelled data, with what they were calibrated for. Needs no torch."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from embedding_expansion.checks import as_share, as_whole, validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import least_reaching

Task = Literal["same or not", "known or unknown"]
Goal = Literal["false alarm rate", "precision"]
TASKS: tuple[Task, ...] = ("same or not", "known or unknown")
GOALS: tuple[Goal, ...] = ("false alarm rate", "precision")

_COUNTS = ("positives", "negatives", "gallery", "classes")
# For each task: the positives, what the threshold does to them, and the negatives.
_WORDS = {
    "same or not": ("pairs of one class", "accepted", "pairs of different classes"),
    "known or unknown": ("known queries", "answered with their class", "unknown queries"),
}


@dataclass(frozen=True)
class Threshold:
    """The smallest cosine to accept, and how it was calibrated.

    Attributes:
        value: similarities of this value or more are accepted.
        task: `same or not` for pairs, `known or unknown` for queries.
        goal: the criterion: the largest `false alarm rate`, or the smallest `precision`.
        wanted: the requested false alarm rate or precision.
        reached: the false alarm rate or precision of this threshold on the calibration data.
        hit_rate: the share of same-class pairs, or of known queries, that it accepts there (and identifies correctly).
        positives: the number of same-class pairs, or of known queries, in the calibration data.
        negatives: the number of pairs of different classes, or of unknown queries.
        data: a description of the calibration data; None if there is none.
        gallery: for `known or unknown`, the number of rows of the gallery that it was calibrated for; None if unknown.
        classes: the number of classes in that gallery.
        twice: its value for a gallery of twice as many rows; None if no threshold keeps the goal there.

    Example:
        >>> threshold = Threshold(0.7, "same or not", "precision", 0.99, 0.993, 0.81, 4000, 250000)
        >>> Threshold.from_json(threshold.to_json()) == threshold
        True
        >>> threshold.accepts(np.array([0.69, 0.7])).tolist()
        [False, True]
    """

    value: float
    task: Task
    goal: Goal
    wanted: float
    reached: float
    hit_rate: float
    positives: int
    negatives: int
    data: str | None = None
    gallery: int | None = None
    classes: int | None = None
    twice: float | None = None

    @validates
    def at(self, gallery: int) -> float | None:
        """The value for a gallery of another size; None if the gallery has outgrown the calibration.

        The nearest row of a larger gallery is nearer. If it has m times as many rows, at most m times as many queries
        of unknown classes reach a threshold. `twice` was calibrated for m = 2, and between 1 and 2 the value is
        interpolated linearly in the logarithm of m. A smaller gallery takes the value as it is, which is stricter than
        needed.

        Args:
            gallery: the number of rows.

        Example:
            >>> threshold = Threshold(0.7, "known or unknown", "precision", 0.9, 0.9, 0.8, 50, 50, None, 100, 10, 0.8)
            >>> threshold.at(50), threshold.at(100), threshold.at(200), threshold.at(201)
            (0.7, 0.7, 0.8, None)
        """
        gallery = as_whole(gallery, "gallery", least=0)
        if self.gallery is None or gallery <= self.gallery:
            return self.value
        if self.twice is None or gallery > 2 * self.gallery:
            return None
        return self.value + (self.twice - self.value) * math.log2(gallery / self.gallery)

    @validates
    def accepts(self, similarities: Any) -> Any:
        """Whether each similarity of an array or a tensor is accepted.

        A similarity of 0.999999 or more counts as 1, so that equal embeddings reach a threshold of 1 despite rounding.

        Returns:
            Booleans in the shape of `similarities`.
        """
        return similarities >= least_reaching(self.value)

    def sentence(self) -> str:
        """Describes the threshold in one sentence.

        Example:
            >>> print(Threshold(0.7, "same or not", "precision", 0.99, 0.993, 0.81, 4000, 250000).sentence())
            same or not: from 0.7000 on, with a precision of 0.9930 (asked for: at least 0.99); 81.0 % of 4,000 pairs of
            one class are accepted; measured against 250,000 pairs of different classes
        """
        bound = "at most" if self.goal == "false alarm rate" else "at least"
        positives, accepted, negatives = _WORDS[self.task]
        data = f", on {self.data}" if self.data else ""
        size = "" if self.gallery is None else f"; for galleries of up to {self.gallery:,} images"
        if self.gallery is not None and self.twice is not None:
            size += f", rising to {self.twice:.4f} for twice as many"
        return (
            f"{self.task}: from {self.value:.4f} on, with a {self.goal} of {self.reached:.4f} (asked for: {bound} "
            f"{self.wanted:g}); {100 * self.hit_rate:.1f} % of {self.positives:,} {positives} are {accepted}; measured "
            f"against {self.negatives:,} {negatives}{data}{size}"
        )

    def to_json(self) -> str:
        """The threshold as a JSON object with the attributes as keys, without those that are None."""
        content = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    @validates
    def from_json(cls, text: str) -> Threshold:
        """Reads what `to_json` wrote.

        Raises:
            InvalidInput: the text is not such JSON.
        """
        try:
            content = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInput(f"the threshold cannot be read ({error}); pass the JSON that to_json wrote") from None
        needed = [field.name for field in fields(cls) if field.default is MISSING]
        optional = {field.name for field in fields(cls)} - set(needed)
        if not isinstance(content, dict) or sorted(content.keys() - optional) != sorted(needed):
            given = ", ".join(sorted(content)) if isinstance(content, dict) else type(content).__name__
            raise InvalidInput(
                f"the threshold has the keys {given}, but {', '.join(needed)} are expected; calibrate it again"
            )
        for name in content.keys() - {"task", "goal", "data"}:
            number = content[name]
            kinds = (int,) if name in _COUNTS else (int, float)
            if not isinstance(number, kinds) or isinstance(number, bool) or not abs(number) < 2**63:
                raise InvalidInput(
                    f"{name} of the threshold is {number!r}, but a number is expected; calibrate it again"
                )
        if not isinstance(content.get("data"), (str, type(None))):
            raise InvalidInput(
                f"data of the threshold is {content['data']!r}, but a text is expected; calibrate it again"
            )
        if str(content["task"]) not in TASKS or str(content["goal"]) not in GOALS:
            raise InvalidInput(
                f"the threshold is for {content['task']!r} by {content['goal']!r}, but the tasks are {TASKS} and the "
                f"goals {GOALS}; calibrate it again"
            )
        return cls(**content)


@validates
def calibrate(
    task: Task,
    thresholds: Float[np.ndarray, " t"],
    hits: Float[np.ndarray, " t"],
    false_alarms: Float[np.ndarray, " t"],
    precisions: Float[np.ndarray, " t"],
    counts: tuple[int, int],
    false_alarm_rate: float | None,
    precision: float | None,
) -> Threshold:
    """Chooses the threshold with the most hits that keeps a false alarm rate or a precision; of equals the largest.

    Args:
        task: what the threshold is for.
        thresholds: (t,), descending.
        hits: (t,), the share of positives at or above each threshold.
        false_alarms: (t,), the share of negatives at or above each threshold.
        precisions: (t,), the share of correct answers among everything at or above each threshold.
        counts: the numbers of positives and of negatives.
        false_alarm_rate: the largest one allowed, 0 to 1, or None.
        precision: the smallest one allowed, 0 to 1, or None.

    Raises:
        InvalidInput: both or neither are given, the value is not from 0 to 1, or no threshold keeps it.
    """
    if (false_alarm_rate is None) == (precision is None):
        raise InvalidInput("pass one of false_alarm_rate and precision, such as precision=0.99")
    goal: Goal = "precision" if false_alarm_rate is None else "false alarm rate"
    wanted = precision if false_alarm_rate is None else false_alarm_rate
    reached = precisions if false_alarm_rate is None else false_alarms
    wanted = as_share(wanted, goal.replace(" ", "_"))
    fits: Bool[np.ndarray, " t"] = reached >= wanted if goal == "precision" else reached <= wanted
    if not fits.any():
        best = reached.max() if goal == "precision" else reached.min()
        raise InvalidInput(
            f"no threshold has a {goal} of {wanted:g}, the best has {best:g}; ask for less, or calibrate on more data"
        )
    chosen = int(np.where(fits, hits, -1).argmax())
    share, hit_rate = float(reached[chosen]), float(hits[chosen])
    return Threshold(float(thresholds[chosen]), task, goal, wanted, share, hit_rate, *counts)
