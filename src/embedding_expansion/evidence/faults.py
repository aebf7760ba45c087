"""Faults of training data, made on purpose: wrong labels, images under two labels, long tails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.images import ImageSet

_Rows = npt.NDArray[np.int64]
#: The largest and the smallest class of a long tail.
MOST, FEWEST = 50, 2
#: The share of the images that are in the set a second time, with another label.
TWICE = 0.1


def with_fault(images: ImageSet, fault: str, seed: int) -> tuple[ImageSet, _Rows]:
    """The training images with a fault.

    Args:
        images: the training images.
        fault: "wrong10" or "wrong30" (that share of the labels is replaced by another class at random), "twice" (a
            tenth of the images is there again with another label), "tail" (class sizes fall exponentially from 50, or
            the largest there is, to 2), or "" for none.
        seed: the seed of what is changed.

    Returns:
        The images, and the row of each in the given set.
    """
    rows = np.arange(len(images))
    if not fault:
        return images, rows
    rows, labels = FAULTS[fault](images, np.random.default_rng([seed, 7]))
    return dataclasses.replace(images.subset(rows), labels=labels), rows


def _other(images: ImageSet, rows: _Rows, draw: np.random.Generator) -> _Rows:
    """Another class for each of some rows, at random."""
    classes = images.classes
    own = np.searchsorted(classes, images.labels[rows])
    found: _Rows = classes[(own + draw.integers(1, len(classes), len(rows))) % len(classes)]
    return found


def _wrong(share: float) -> Callable[[ImageSet, np.random.Generator], tuple[_Rows, _Rows]]:
    def change(images: ImageSet, draw: np.random.Generator) -> tuple[_Rows, _Rows]:
        chosen = draw.choice(len(images), round(share * len(images)), replace=False)
        labels = images.labels.copy()
        labels[chosen] = _other(images, chosen, draw)
        return np.arange(len(images)), labels

    return change


def _twice(images: ImageSet, draw: np.random.Generator) -> tuple[_Rows, _Rows]:
    chosen = draw.choice(len(images), round(TWICE * len(images)), replace=False)
    rows = np.concatenate([np.arange(len(images)), chosen])
    return rows, np.concatenate([images.labels, _other(images, chosen, draw)])


def _tail(images: ImageSet, draw: np.random.Generator) -> tuple[_Rows, _Rows]:
    classes = draw.permutation(images.classes)
    counts = np.bincount(images.labels)
    most = min(MOST, int(counts.max()))
    sizes = np.round(most * (FEWEST / most) ** (np.arange(len(classes)) / max(len(classes) - 1, 1))).astype(int)
    kept = [draw.permutation(np.flatnonzero(images.labels == c))[:size] for c, size in zip(classes, sizes, strict=True)]
    rows = np.sort(np.concatenate(kept))
    return rows, images.labels[rows]


FAULTS: dict[str, Callable[[ImageSet, np.random.Generator], tuple[_Rows, _Rows]]] = {
    "wrong10": _wrong(0.1),
    "wrong30": _wrong(0.3),
    "twice": _twice,
    "tail": _tail,
}
