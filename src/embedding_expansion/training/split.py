"""The split of a run's data. It is drawn when the run starts and kept even if the data changes later."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.datasets import DATASETS, open_dataset
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.runs.options import DataConfig, TrainConfig
from embedding_expansion.training.evaluation import hold_out_classes


@dataclass(frozen=True)
class Sides:
    """The names of a run's training, held-out and test classes."""

    train: tuple[str, ...]  # including the held-out classes, in the order of their numbers
    held_out: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """The images of each split."""

    dataset: Dataset  # with the classes of this run
    train: ImageSet
    validation: ImageSet | None  # held-out training classes
    classes: npt.NDArray[np.int64]  # numbers of the training classes, including classes whose images are missing

    @property
    def sides(self) -> Sides:
        """The names of the classes of each split."""
        held = () if self.validation is None else _names(self.validation)
        return Sides(self.dataset.train.class_names, held, self.dataset.test.class_names)


def open_data(config: DataConfig) -> Dataset:
    """Opens the data set of a configuration with its current split.

    Raises:
        InvalidInput, UnknownName, DataError: the data set does not exist or cannot be opened.
    """
    root = None if config.root is None else Path(config.root)
    dataset = open_dataset(config.name, root=root, part=config.part, train_classes=config.train_classes)
    if root is not None and config.name not in DATASETS:
        raise InvalidInput(f"root is {root}, but {config.name} is a path; omit one of them")
    return dataset


def located(config: DataConfig) -> DataConfig:
    """Makes paths absolute, so that the run can be resumed from another folder."""

    def absolute(path: str) -> str:
        return os.path.abspath(os.path.expanduser(path))

    is_path = config.name not in DATASETS and os.path.exists(absolute(config.name))
    return replace(
        config,
        name=absolute(config.name) if is_path else config.name,
        root=None if config.root is None else absolute(config.root),
    )


def draw(dataset: Dataset, config: TrainConfig) -> Split:
    """Draws the split of a new run: its seed selects the held-out classes."""
    train, validation = dataset.train, None
    if config.protocol == "validation":
        train, validation = hold_out_classes(dataset.train, config.validation_share, config.seed)
    return Split(dataset, train, validation, train.classes)


def keep(dataset: Dataset, sides: Sides, config: TrainConfig) -> Split:
    """Applies the original split of a run to data that may have changed.

    Every class keeps its split and its number; new classes are ignored. A class in both splits has the images that the
    data set now has in each of them.

    Args:
        dataset: the data set as opened now.
        sides: the original split of the run.
        config: the configuration of the run; its protocol determines whether classes are held out.

    Raises:
        DataError: a split has no images left.
    """
    if (sides.train, sides.test) != (dataset.train.class_names, dataset.test.class_names):
        shared = set(sides.train) & set(sides.test)
        train = _gathered(dataset.train, dataset.test, sides.train, shared)
        test = _gathered(dataset.test, dataset.train, sides.test, shared)
        dataset = replace(dataset, train=train, test=test)
    if config.protocol != "validation":
        return Split(dataset, dataset.train, None, np.arange(len(sides.train)))
    held = _numbers(dataset.train, set(sides.held_out))
    is_held = np.isin(dataset.train.labels, held)
    if is_held.all() or not is_held.any():
        raise DataError(
            f"{dataset.name} has no images of the {'training' if is_held.any() else 'held-out'} classes of the run; "
            "restore them, or start a new run"
        )
    train, validation = (dataset.train.subset(np.flatnonzero(chosen)) for chosen in (~is_held, is_held))
    return Split(dataset, train, validation, np.setdiff1d(np.arange(len(sides.train)), held))


def _names(images: ImageSet) -> tuple[str, ...]:
    return tuple(images.class_names[number] for number in images.classes.tolist())


def _numbers(images: ImageSet, names: set[str]) -> list[int]:
    return [number for number, name in enumerate(images.class_names) if name in names]


def _gathered(now: ImageSet, elsewhere: ImageSet, own: tuple[str, ...], shared: set[str]) -> ImageSet:
    """The images of some classes from the split that has them now. Classes in both splits keep to their own split."""
    wanted = ((now, set(own)), (elsewhere, set(own) - shared))
    parts = [images.subset(np.flatnonzero(np.isin(images.labels, _numbers(images, names)))) for images, names in wanted]
    return _joined(parts, own)


def _joined(parts: list[ImageSet], class_names: tuple[str, ...]) -> ImageSet:
    """Joins image sets, sorted by class; `class_names` defines the class numbers."""
    number = {name: label for label, name in enumerate(class_names)}
    labels = [number[part.class_names[label]] for part in parts for label in part.labels.tolist()]
    order = np.argsort(labels, kind="stable")

    def whole(name: str) -> tuple[Any, ...] | None:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            return None
        known = [entry for value in values for entry in value]
        return tuple(known[place] for place in order)

    pixels = [part.pixels for part in parts if part.pixels is not None]
    return ImageSet(
        np.array(labels, dtype=np.int64)[order],
        class_names,
        paths=whole("paths"),
        pixels=np.concatenate(pixels)[order] if pixels else None,
        names=whole("names"),
        is_query=_marks(parts, "is_query", order),
        is_gallery=_marks(parts, "is_gallery", order),
    )


def _marks(parts: list[ImageSet], name: str, order: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
    """Joins the marks of queries or gallery images. Images of a set without marks are both."""
    given = [getattr(part, name) for part in parts]
    if given[0] is None:
        return None
    marks = [np.ones(len(part), np.bool_) if mark is None else mark for part, mark in zip(parts, given, strict=True)]
    whole: npt.NDArray[np.bool_] = np.concatenate(marks)[order]
    return whole
