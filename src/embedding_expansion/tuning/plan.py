"""The plan of a study: its options, arms, folds and search space, resolved and checked before anything is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedding_expansion.errors import InvalidInput
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.cross_validation import Measure, class_folds
from embedding_expansion.training.factory import make_loss
from embedding_expansion.training.fingerprint import Fingerprint, fingerprint
from embedding_expansion.training.job import make_sampler
from embedding_expansion.training.split import Sides, Split, located, open_data
from embedding_expansion.tuning.arms import check_arms, with_arm
from embedding_expansion.tuning.space import Space, make_space

MEASURES: dict[Measure, str] = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}
#: Folds where only the head learns, and a training takes seconds.
HEAD_FOLDS = 3
_MOST = 10_000  # trials


@dataclass(frozen=True)
class Plan:
    """Everything that defines the trials of a study.

    Attributes:
        config: the options of a run that the trials share, with the batch resolved.
        data: the name of the data set, as outputs show it.
        arms: the arms to tune.
        trials: the number of trials of each arm.
        measure: the measure that is maximised.
        space: the search space.
        splits: training and held-out classes of each fold.
        seen: options and training images, to recognise the study.
    """

    config: TrainConfig
    data: str
    arms: tuple[str, ...]
    trials: int
    measure: Measure
    space: Space
    splits: list[Split]
    seen: Fingerprint

    @property
    def is_head_only(self) -> bool:
        """Whether the trials share the cached features of a frozen backbone."""
        return self.config.model.freeze_backbone

    @property
    def settings(self) -> dict[str, Any]:
        """What makes two trials comparable besides the options of a run, as JSON."""
        weights = self.config.model.weights
        file = None if weights is None or not os.path.exists(weights) else os.stat(weights)
        return {
            "measure": self.measure,
            "folds": len(self.splits),
            "search": {name: str(values) for name, values in self.space.dimensions.items()}
            | {"steps": " or ".join(map(str, self.space.steps))},
            "weights": None if file is None else [file.st_size, file.st_mtime_ns],
        }


def make_plan(
    config: TrainConfig,
    arms: Sequence[str],
    trials: int,
    *,
    search: Sequence[str] | None = None,
    folds: int | None = None,
    measure: Measure = "recall_at_1",
) -> Plan:
    """Opens the data and plans a study.

    Args:
        config: the options of a run. Its values are those of the first trial of every arm.
        arms: the names of the arms.
        trials: the number of trials of each arm.
        search: short names of what is searched (see `space.SEARCHED`); None searches everything that applies.
        folds: the number of folds over the training classes; None means 3 where only the head learns, otherwise 1.
        measure: the measure to maximise.

    Raises:
        InvalidInput, UnknownName, DataError: an option is invalid, or the data cannot be opened.
    """
    chosen = check_arms(list(arms))
    given = config.expansion
    if given.form is not None or given.scope is not None or given.balance is not None:
        raise InvalidInput(
            "expansion.form, expansion.scope or expansion.balance is given, but the arms decide about them; pass the "
            "forms as --arms"
        )
    _check(config, trials, folds)
    data = located(config.data)
    weights = None if config.model.weights is None else str(Path(config.model.weights).resolve())
    config = dataclasses.replace(
        config,
        data=data,
        model=dataclasses.replace(config.model, weights=weights),
        out=None,
        measure_before=False,
        measure_test=False,
    )
    dataset = open_data(data)
    head_only = config.model.freeze_backbone or dataset.train.holds_vectors
    count = (HEAD_FOLDS if head_only else 1) if folds is None else folds
    splits = class_folds(dataset, count, config.validation_share, config.seed)
    fewest = min((split.train for split in splits), key=lambda images: len(images.classes))
    config = dataclasses.replace(
        config,
        sampler=dataclasses.replace(config.sampler, classes_per_batch=make_sampler(fewest, config).classes_per_batch),
    )
    classes = len(fewest.classes)
    for arm in chosen:
        make_loss(with_arm(config, arm), classes)  # reports a loss that the arm cannot expand before the first trial
    images = int(np.unique(dataset.train.labels, return_counts=True)[1].min())
    space = make_space(config, search, classes, images)
    sides = Sides(dataset.train.class_names, (), dataset.test.class_names)
    seen = fingerprint(comparable(config), dataset, sides)
    return Plan(config, dataset.name, chosen, trials, measure, space, splits, seen)


def comparable(config: TrainConfig) -> TrainConfig:
    """The configuration without what may differ between two processes of a study."""
    return dataclasses.replace(config, threads=None, data=dataclasses.replace(config.data, workers=None))


def _check(config: TrainConfig, trials: int, folds: int | None) -> None:
    if not 1 <= trials <= _MOST:
        raise InvalidInput(f"trials is {trials}; pass a number of 1 to {_MOST:,}")
    if folds is not None and not 1 <= folds <= 100:
        raise InvalidInput(f"folds is {folds}; pass a number of 1 to 100")
    if config.protocol != "validation":
        raise InvalidInput(
            f"--protocol {config.protocol} does not select on held-out training classes, as tuning must; omit it"
        )
    if config.patience is not None:
        raise InvalidInput(
            f"patience is {config.patience}, which would give trials of the same number different budgets; omit it"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InvalidInput("a trial trains in one process; start embex tune several times instead of with torchrun")
