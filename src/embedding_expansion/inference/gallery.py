"""The threshold of "known or unknown" for an index: calibrated on its labelled items, and again when it has grown.

This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.inference.thresholds import (
    THRESHOLDS,
    Goal,
    Thresholds,
    read_thresholds,
    thresholds_json,
    thresholds_of_json,
)
from embedding_expansion.retrieval.gallery import LEAST_CLASSES, HeldOut, held_out, sampled
from embedding_expansion.retrieval.index import Index

#: The note of an index with thresholds calibrated on its own items. They override those of its model.
NOTE = "thresholds"
#: The note that says what the last calibration of "known or unknown" saw, and why it failed.
SEEN = "gallery"
#: The target if neither the index nor its model was calibrated for another one.
DEFAULT = Goal(false_alarm_rate=0.05)
#: The share of its items by which an index may change before it is calibrated again.
GROWTH = 0.5


@dataclass(frozen=True)
class KnownFrom:
    """From which similarity an index knows a query.

    Attributes:
        value: the similarity; None if there is none for this index.
        reason: why there is none, or why it is the model's; empty if it is the threshold of this very gallery.
    """

    value: float | None
    reason: str = ""


def thresholds_of(index: Index) -> Thresholds:
    """The thresholds of an index: those calibrated on its own items, and else those of its model.

    Raises:
        StoreError: they cannot be read.
    """
    own = index.notes.get(NOTE)
    try:
        found = {} if own is None else dict(thresholds_of_json(own))
    except InvalidInput as error:
        raise StoreError(f"the thresholds of {index.location} cannot be read: {error}") from error
    return {**_of_model(index), **found}


def known_from(index: Index, thresholds: Thresholds) -> KnownFrom:
    """The similarity from which an index knows a query, at its size now.

    Args:
        index: the index.
        thresholds: its thresholds, see `thresholds_of`.
    """
    threshold, size = thresholds.get("known or unknown"), index.count()
    failed = _seen(index).get("failed", "")
    if threshold is None:
        return KnownFrom(None, failed)
    value = threshold.at(size)
    if value is None:
        return KnownFrom(
            None,
            f"the threshold was calibrated for up to {threshold.gallery:,} images, too few for the {size:,} of this "
            f"index; {failed or 'calibrate it again with embex calibrate'}",
        )
    return KnownFrom(value, failed and f"{failed}; the threshold is that of its model")


def calibrate_gallery(index: Index, goal: Goal | None = None) -> None:
    """Calibrates "known or unknown" on the labelled items of an index, and stores the threshold with it.

    Each class is held out of the index in turn, see `retrieval.gallery.gallery_threshold`. With fewer than 8 classes,
    or where no threshold keeps the target, a note says so, and the threshold of the model applies.

    Args:
        index: the index.
        goal: the target. None takes that of the present threshold, of the index or of the model; if there is none, at
            most 5% of the images of new classes may count as known.

    Raises:
        StoreError: another process is writing to the index.
    """
    numbers, labelled = _numbered_labels(index)
    before = thresholds_of(index).get("known or unknown")
    if goal is None:
        goal = DEFAULT if before is None else Goal(**{before.goal.replace(" ", "_"): before.wanted})
    own = dict(thresholds_of_json(index.notes.get(NOTE) or {}))
    own.pop("known or unknown", None)
    failed = too_few(len(numbers))
    if not failed:
        try:
            found = _held_out(index, numbers, labelled).threshold(**dataclasses.asdict(goal))
            what = f"{labelled:,} images of {len(numbers):,} classes of the index itself"
            own["known or unknown"] = dataclasses.replace(found, data=what)
        except InvalidInput as error:
            failed = f"the index has no threshold of its own: {error}"
    keep(index, own, labelled, len(numbers), failed)


def too_few(classes: int) -> str:
    """Why an index has no threshold of its own if it has labels of so few classes; empty if it has enough."""
    if classes >= LEAST_CLASSES:
        return ""
    return f"the index has labels of {classes} classes, too few for a threshold of its own, which needs {LEAST_CLASSES}"


def keep(index: Index, thresholds: Thresholds, labelled: int, classes: int, failed: str) -> None:
    """Stores thresholds that were calibrated on the items of an index.

    Args:
        index: the index.
        thresholds: those that there are.
        labelled: the number of its labelled items.
        classes: the number of their classes.
        failed: why there is none for "known or unknown"; empty if there is one.

    Raises:
        StoreError: another process is writing to the index.
    """
    index.set_note(NOTE, thresholds_json(thresholds))
    index.set_note(SEEN, {"labelled": labelled, "classes": classes, "failed": failed})


def calibrate_if_changed(index: Index, changed: int) -> None:
    """Calibrates an index after a load, if it has no threshold yet or has changed by half since.

    Args:
        index: the index.
        changed: how many of its items were replaced.
    """
    labelled = index.count() - index.count({"label": None})
    seen = _seen(index)
    before = int(seen.get("labelled", 0))
    enough = int(seen.get("classes", 0)) >= LEAST_CLASSES
    if labelled and not (enough and max(abs(labelled - before), changed) < GROWTH * before):
        calibrate_gallery(index)


def _of_model(index: Index) -> Thresholds:
    if THRESHOLDS not in index.files.sizes():
        return {}
    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        index.files.fetch(THRESHOLDS, Path(folder) / THRESHOLDS)
        return read_thresholds(Path(folder))


def _seen(index: Index) -> dict[str, Any]:
    found = index.notes.get(SEEN)
    return found if isinstance(found, dict) else {}


def _numbered_labels(index: Index) -> tuple[dict[str, int], int]:
    """A number for each label, and the number of labelled items."""
    numbers, count = dict[str, int](), 0
    for items in index.items():
        for item in items:
            if item.label is not None:
                numbers.setdefault(item.label, len(numbers))
                count += 1
    return numbers, count


def _held_out(index: Index, numbers: dict[str, int], labelled: int) -> HeldOut:
    """Compares a sample of the labelled items with all of them, a batch of the index at a time."""
    chosen, start, parts = sampled(labelled), 0, list[tuple[npt.NDArray[Any], ...]]()
    for vectors, classes, ids in _batches(index, numbers):
        kept = chosen[start : start + len(ids)]
        parts.append((vectors[: len(kept)][kept], classes[: len(kept)][kept], ids[: len(kept)][kept]))
        start += len(ids)
    queries, classes, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
    return held_out(queries, classes, ids, _batches(index, numbers))


def _batches(
    index: Index, numbers: dict[str, int]
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Vectors, class numbers and ids of the labelled items."""
    for items, vectors in index.batches(size=4096):
        kept = [place for place, item in enumerate(items) if item.label in numbers]
        classes = [numbers[str(items[place].label)] for place in kept]
        yield vectors[kept], np.array(classes, np.int64), np.array([items[place].id for place in kept], np.int64)
