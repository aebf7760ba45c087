"""Calibrates the thresholds of similarity for "same or not" and "known or unknown" on labelled embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.thresholds import Goal
from embedding_expansion.retrieval.gallery import HeldOut
from embedding_expansion.retrieval.roc import VerificationCurve
from embedding_expansion.retrieval.threshold import TASKS, Task, Threshold
from embedding_expansion.retrieval.verification import verification

#: Above this number of rows, this number of pairs is sampled instead of comparing all pairs.
ROWS, PAIRS = 20_000, 2_000_000


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

    "Same or not" uses all pairs, or for more than 20,000 rows a sample of 2 million pairs of each kind. "Known or
    unknown" holds out each class in turn, see `retrieval.gallery.gallery_threshold`; the threshold is for a gallery of
    all rows.

    Args:
        labelled: embeddings with their classes.
        goal: the target of both thresholds.
        seed: random seed of the sample of pairs.

        Raises:
            InvalidInput: neither threshold can be calibrated.
    """
    target = dataclasses.asdict(goal)
    found, failed = dict[Task, Threshold](), dict[Task, str]()
    for task in TASKS:
        try:
            curve = _pairs(labelled, seed) if task == "same or not" else HeldOut.of(labelled.vectors, labelled.labels)
            found[task] = dataclasses.replace(curve.threshold(**target), data=labelled.description)
        except InvalidInput as error:
            failed[task] = str(error)
    if not found:
        raise InvalidInput(f"no threshold can be calibrated on {labelled.description}: {failed['same or not']}")
    return Calibration(found, failed)


def _pairs(labelled: Labelled, seed: int) -> VerificationCurve:
    sample = PAIRS if len(labelled.labels) > ROWS else None
    return verification(labelled.vectors, labelled.labels, sample=sample, seed=seed)
