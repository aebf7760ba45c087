"""Calibrates the thresholds of similarity for "same or not" and "known or unknown" on labelled embeddings."""

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

#: Above this number of rows, this number of pairs is sampled instead of comparing all pairs.
ROWS, PAIRS = 20_000, 2_000_000


@dataclass(frozen=True)
class Goal:
    """The target of a threshold. Exactly one attribute is given.

    Attributes:
        false_alarm_rate: the maximum share of accepted pairs among pairs of different classes, or of accepted queries
            among unknown queries.
        precision: the minimum share of accepted pairs (or queries) that are correct.
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
    """Labelled embeddings.

    Attributes:
        vectors: the embeddings, float32, (n, d).
        labels: the class numbers, (n,).
        data: what the embeddings are, in words.
        broken: path -> reason, for unreadable images, which are left out.
        changes: changes to a run's own data since it was trained.
    """

    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    data: str
    broken: Mapping[str, str] = field(default_factory=dict)
    changes: Sequence[str] = ()

    @property
    def description(self) -> str:
        """The data in words, with the number of images and classes."""
        return f"{len(self.labels):,} images of {len(np.unique(self.labels)):,} classes of {self.data}"


@dataclass(frozen=True)
class Calibration:
    """The result of a calibration.

    Attributes:
        thresholds: the thresholds that could be calibrated, by task.
        failed: the reason for each threshold that could not be calibrated, by task.
    """

    thresholds: dict[Task, Threshold]
    failed: dict[Task, str]


def calibrate(labelled: Labelled, goal: Goal, *, seed: int = 0) -> Calibration:
    """Calibrates both thresholds on labelled embeddings.

    "Same or not" uses all pairs, or for more than 20,000 rows a sample of 2 million pairs of each kind. For "known or
    unknown", half of the classes are known and half unknown, and half of the rows of every class are queries. The
    gallery contains the other rows of the known classes, so that about half of the queries are known.

    Args:
        labelled: embeddings with their classes.
        goal: the target of both thresholds.
        seed: random seed of the sample of pairs and of the split of the classes.

        Raises:
            InvalidInput: neither threshold can be calibrated.
    """
    target = dataclasses.asdict(goal)
    found, failed = dict[Task, Threshold](), dict[Task, str]()
    for task in TASKS:
        try:
            curve = _pairs(labelled, seed) if task == "same or not" else known_or_unknown(labelled, seed=seed)
            found[task] = dataclasses.replace(curve.threshold(**target), data=labelled.description)
        except InvalidInput as error:
            failed[task] = str(error)
    if not found:
        raise InvalidInput(f"no threshold can be calibrated on {labelled.description}: {failed['same or not']}")
    return Calibration(found, failed)


def _pairs(labelled: Labelled, seed: int) -> VerificationCurve:
    sample = PAIRS if len(labelled.labels) > ROWS else None
    return verification(labelled.vectors, labelled.labels, sample=sample, seed=seed)


def known_or_unknown(labelled: Labelled, *, seed: int = 0) -> OpenSetCurve:
    """Computes the curve of "known or unknown". A random half of the classes is missing from the gallery.

    Raises:
        InvalidInput: fewer than two classes have two images.
    """
    is_query, is_known = split_for_known_or_unknown(labelled.labels, seed=seed)
    if not (is_query & is_known).any() or not (is_query & ~is_known).any():
        raise InvalidInput("known or unknown needs two classes with two images each; label more images")
    return open_set(labelled.vectors, labelled.labels, is_query=is_query, is_gallery=is_known & ~is_query)


def split_for_known_or_unknown(
    labels: npt.NDArray[np.int64], *, seed: int = 0
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Splits rows for "known or unknown".

    Returns:
        Masks (n,) of the queries (half of each class, rounded down) and of the rows of known classes (half of the
        classes with at least two rows).

    Example:
        >>> is_query, is_known = split_for_known_or_unknown(np.array([7, 7, 8, 8, 9]))
        >>> int(is_query.sum()), int(is_known.sum()), bool(is_known[4])
        (2, 2, False)
    """
    random = generator_of(seed)
    classes, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    drawn = random.permutation(np.flatnonzero(sizes > 1))
    shuffled = random.permutation(len(labels))
    order = shuffled[np.argsort(own[shuffled], kind="stable")]  # sorted by class, shuffled within each class
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(sizes.cumsum() - sizes, sizes)
    is_known_class = np.isin(np.arange(len(classes)), drawn[: len(drawn) // 2])
    return rank < sizes[own] // 2, is_known_class[own]
