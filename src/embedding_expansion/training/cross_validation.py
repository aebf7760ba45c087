"""Cross-validation over the training classes: the number of steps that is best for classes held out in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch

from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.errors import DataError, ResourceError, RunError
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.evaluation import consecutive_classes, hold_out_classes
from embedding_expansion.training.job import Features, Job
from embedding_expansion.training.split import Split

Measure: TypeAlias = Literal["recall_at_1", "map_at_r"]
#: Step -> the measures of the held-out classes.
Curve: TypeAlias = dict[int, dict[str, float]]
#: The folds of a run with `--protocol folds`.
FOLDS = 3


class _Outcome(Protocol):
    @property
    def signal(self) -> int: ...


def class_folds(dataset: Dataset, folds: int, share: float | None, seed: int) -> list[Split]:
    """Splits the training classes.

    Args:
        dataset: the data set; its test split is passed on and not read.
        folds: 1 holds out a share of the training classes; a larger number cross-validates, so that every training
            class is held out once.
        share: the share of the classes that one fold holds out; None: as in `hold_out_classes`.
        seed: the seed of the classes' order, see `consecutive_classes`.

    Raises:
        DataError: there are too few classes.
    """
    images = dataset.train
    if folds == 1:
        train, held_out = hold_out_classes(images, share, seed)
        return [Split(dataset, train, held_out, train.classes)]
    classes = consecutive_classes(images, seed)
    is_single = np.bincount(images.labels)[classes] < 2  # nothing can be found for it, so it measures nothing
    if (~is_single).sum() < 2 * folds:
        raise DataError(
            f"the training set has {(~is_single).sum()} classes of two images or more, too few for {folds} folds of 2 "
            "of them; pass fewer folds, or --protocol validation"
        )
    splits = []
    parts = (np.array_split(chosen, folds) for chosen in (classes[~is_single], classes[is_single]))
    for measured, single in zip(*parts, strict=True):
        is_held = np.isin(images.labels, [*measured, *single])
        train, held_out = (images.subset(np.flatnonzero(chosen)) for chosen in (~is_held, is_held))
        splits.append(Split(dataset, train, held_out, train.classes))
    return splits


def curve(run: RunFolder) -> Curve:
    """The measures of a run on its held-out classes, from its log."""
    return {entry["step"]: entry["validation"] for entry in run.read_log() if "validation" in entry}


def best_step(
    curves: Sequence[Curve], measure: Measure, *, only_last: bool = False, keeps_recall: bool = False
) -> tuple[int, dict[str, float], float | None]:
    """The step with the best mean over the folds, since one number of steps has to serve all of them.

    Args:
        curves: the curve of each fold.
        measure: the measure to maximise; a tie goes to the higher MAP@R, then to the earlier step.
        only_last: whether only the last step counts, because the learning rate of the others belongs to more steps.
        keeps_recall: whether only steps count whose mean Recall@1 is at least that of step 0.

    Returns:
        The step, its measures as means over the folds, and the standard deviation of the measure over the folds (None
        for one fold).
    """
    whole = mean_curve(curves)
    least = whole[0]["recall_at_1"] if keeps_recall else 0
    counted = [max(whole)] if only_last else [step for step in whole if whole[step]["recall_at_1"] >= least]
    means = {step: whole[step] for step in counted}
    step = max(means, key=lambda at: (means[at][measure], means[at]["map_at_r"], -at))
    spread = statistics.stdev(fold[step][measure] for fold in curves) if len(curves) > 1 else None
    return step, means[step], spread


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over the folds at each step that all of them have."""
    steps = sorted(set.intersection(*(set(fold) for fold in curves)))
    return {
        step: {name: statistics.fmean(fold[step][name] for fold in curves) for name in ("recall_at_1", "map_at_r")}
        for step in steps
    }


def cross_validate(job: Job, run: RunFolder, train_on: Callable[..., _Outcome]) -> dict[str, Any] | int:
    """Trains a run for each fold of the training classes, and finds the number of steps for all classes.

    The folds are runs in the folder `folds` of the run, so that those which are complete are not repeated after an
    interruption. The folder is removed when the last one is complete.

    Args:
        job: the job of all training classes.
        run: its run folder.
        train_on: trains a run, `training.run.train_on`.

    Returns:
        The number of the signal that stopped a fold; or `step`, the number of steps with the best mean MAP@R on the
        held-out classes, and `curve`, the mean measures of each step, both for the log.

    Raises:
        DataError: there are too few training classes.
        RunError, ResourceError: the run of a fold failed.
    """
    folder = run.path / "folds"
    known, images = _known_features(job)
    splits = class_folds(dataclasses.replace(job.dataset, train=images), FOLDS, None, job.config.seed)
    curves = []
    for number, split in enumerate(splits, start=1):
        fold = RunFolder(folder / f"fold-{number}")
        if not fold.path.exists() or fold.read_metrics() is None:
            shutil.rmtree(fold.path, ignore_errors=True)
            config = _of_fold(job.config, split, fold)
            of_fold = _features_of(split, images, known) if known else None
            try:
                with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
                    outcome = train_on(config, split, of_fold)
            except (RunError, ResourceError) as error:
                raise type(error)(
                    f"fold {number} of the cross-validation failed ({error.__cause__ or error}); continue with "
                    f"embex train --resume {run.path}, or train again with a smaller --optimizer.lr"
                ) from error
            if outcome.signal:
                return outcome.signal
        curves.append(curve(fold))
    shutil.rmtree(folder)
    step, _, _ = best_step(curves, "map_at_r", keeps_recall=True)
    return {"step": step, "curve": {str(at): measures for at, measures in mean_curve(curves).items()}}


def _of_fold(config: TrainConfig, split: Split, fold: RunFolder) -> TrainConfig:
    """The configuration of a fold: that of the run, selected on the classes that the fold holds out."""
    classes = min(config.sampler.classes_per_batch or 1, len(split.classes))
    return dataclasses.replace(
        config,
        protocol="validation",
        measure_before=False,
        measure_test=False,
        patience=None,
        sampler=dataclasses.replace(config.sampler, classes_per_batch=classes),
        out=str(fold.path),
    )


def _known_features(job: Job) -> tuple[dict[bool, torch.Tensor], ImageSet]:
    """The features of a frozen backbone, of the training images and of their mirror images, and the readable images."""
    if not job.config.model.freeze_backbone:
        return {}, job.train
    found = {mirrored: job.features_of(job.train, mirrored) for mirrored in {False, job.config.flip}}
    return {mirrored: features for mirrored, (features, _) in found.items()}, found[False][1]


def _features_of(split: Split, images: ImageSet, known: dict[bool, torch.Tensor]) -> Features:
    """The features of a fold's training and held-out images, by the identity of the sets."""
    found: Features = {}
    for part in (split.train, split.validation):
        if part is not None:
            rows = torch.from_numpy(np.flatnonzero(np.isin(images.labels, part.classes)))
            found |= {(id(part), mirrored): (features[rows], part) for mirrored, features in known.items()}
    return found
