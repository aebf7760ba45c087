"""From which similarity on two images are of one class, and an image known: found on labelled embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedding_expansion.checks import as_share
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.inputs import generator_of
from embedding_expansion.retrieval.open_set import OpenSetCurve, open_set
from embedding_expansion.retrieval.roc import VerificationCurve
from embedding_expansion.retrieval.threshold import TASKS, Task, Threshold
from embedding_expansion.retrieval.verification import verification

#: Of more rows than these, pairs are drawn instead of compared all.
ROWS, PAIRS = 20_000, 2_000_000


@dataclass(frozen=True)
class Goal:
    """What a threshold has to keep: one of the two.

    Attributes:
        false_alarm_rate: the largest share of pairs of different classes, or of unknown queries, that may be accepted.
        precision: the smallest share of what is accepted that must be right.
    """

    false_alarm_rate: float | None = None
    precision: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) != 1:
            raise InvalidInput("pass one of precision and false_alarm_rate, such as precision 0.99")
        for name, value in given.items():
            as_share(value, name)


@dataclass(frozen=True)
class Labelled:
    """Embeddings whose classes are known.

    Attributes:
        vectors: float32, (n, d).
        labels: n numbers, one for each class.
        data: what these are, in words.
        broken: path -> reason, for images that could not be read and are not among them.
        changes: what has changed in a run's own data since it was trained.
    """

    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    data: str
    broken: Mapping[str, str] = field(default_factory=dict)
    changes: Sequence[str] = ()

    @property
    def description(self) -> str:
        """The data with its size."""
        return f"{len(self.labels):,} images of {len(np.unique(self.labels)):,} classes of {self.data}"


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        thresholds: for each question that could be answered.
        failed: for each other one why not.
    """

    thresholds: dict[Task, Threshold]
    failed: dict[Task, str]


def calibrate(labelled: Labelled, goal: Goal, *, seed: int = 0) -> Calibration:
    """Calibrates both thresholds on labelled embeddings.

    "Same or not" is measured on all pairs; of more than 20,000 rows, on 2 million pairs of either kind that are drawn.
    For "known or unknown" half of the classes are known and half unknown, and half of the rows of every class are
    queries: the gallery holds the other half of the known classes, so that about as many queries are known as unknown.

    Args:
        labelled: embeddings with their classes.
        goal: what the thresholds have to keep.
        seed: of the draws and of the split of the classes.

    Raises:
        InvalidInput: neither threshold can be had; says why.
    """
    asked = dataclasses.asdict(goal)
    found, failed = dict[Task, Threshold](), dict[Task, str]()
    for task in TASKS:
        try:
            curve = _pairs(labelled, seed) if task == "same or not" else known_or_unknown(labelled, seed=seed)
            found[task] = dataclasses.replace(curve.threshold(**asked), data=labelled.description)
        except InvalidInput as error:
            failed[task] = str(error)
    if not found:
        raise InvalidInput(f"on {labelled.description} there is no threshold to be had: {failed['same or not']}")
    return Calibration(found, failed)


def _pairs(labelled: Labelled, seed: int) -> VerificationCurve:
    sample = PAIRS if len(labelled.labels) > ROWS else None
    return verification(labelled.vectors, labelled.labels, sample=sample, seed=seed)


def known_or_unknown(labelled: Labelled, *, seed: int = 0) -> OpenSetCurve:
    """The curve of "known or unknown", on classes of which a half, drawn at random, is not in the gallery.

    Raises:
        InvalidInput: fewer than two classes have two images.
    """
    is_query, is_known = split_for_known_or_unknown(labelled.labels, seed=seed)
    if not (is_query & is_known).any() or not (is_query & ~is_known).any():
        raise InvalidInput("known or unknown asks for two classes with two images each; label more images")
    return open_set(labelled.vectors, labelled.labels, is_query=is_query, is_gallery=is_known & ~is_query)


def split_for_known_or_unknown(
    labels: npt.NDArray[np.int64], *, seed: int = 0
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows are queries, half of each class rounded down, and which are of known classes, half of those with two.

    Example:
        >>> is_query, is_known = split_for_known_or_unknown(np.array([7, 7, 8, 8, 9]))
        >>> int(is_query.sum()), int(is_known.sum()), bool(is_known[4])
        (2, 2, False)
    """
    random = generator_of(seed)
    classes, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    drawn = random.permutation(np.flatnonzero(sizes > 1))
    shuffled = random.permutation(len(labels))
    order = shuffled[np.argsort(own[shuffled], kind="stable")]  # class by class, within each at random
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(sizes.cumsum() - sizes, sizes)
    is_known_class = np.isin(np.arange(len(classes)), drawn[: len(drawn) // 2])
    return place < sizes[own] // 2, is_known_class[own]
