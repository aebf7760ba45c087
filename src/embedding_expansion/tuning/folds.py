"""The classes that trials hold out: training classes only, in one split or in folds."""

from __future__ import annotations

import numpy as np

from embedding_expansion.data.images import Dataset
from embedding_expansion.errors import DataError
from embedding_expansion.training.evaluation import hold_out_classes
from embedding_expansion.training.split import Split


def class_folds(dataset: Dataset, folds: int, share: float | None, seed: int) -> list[Split]:
    """Splits the training classes.

    Args:
        dataset: the data set; its test split is passed on and not read.
        folds: 1 holds out a share of the training classes; a larger number cross-validates, so that every training
            class is held out once.
        share: the share of the classes that one fold holds out; None: as in `hold_out_classes`.
        seed: the seed of the classes' order.

    Raises:
        DataError: there are too few classes.
    """
    images = dataset.train
    if folds == 1:
        train, held_out = hold_out_classes(images, share, seed)
        return [Split(dataset, train, held_out, train.classes)]
    classes = np.random.default_rng(seed).permutation(images.classes)
    if len(classes) < 2 * folds:
        raise DataError(
            f"the training set has {len(classes)} classes, too few for {folds} folds of 2 classes or more; pass fewer "
            "--folds"
        )
    splits = []
    for held in np.array_split(classes, folds):
        is_held = np.isin(images.labels, held)
        train, held_out = (images.subset(np.flatnonzero(chosen)) for chosen in (~is_held, is_held))
        splits.append(Split(dataset, train, held_out, train.classes))
    return splits
