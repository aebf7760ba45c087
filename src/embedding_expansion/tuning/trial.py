"""One trial: an ordinary run for each fold, measured on its held-out training classes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.errors import RunError
from embedding_expansion.model.network import NotFinite
from embedding_expansion.model.trained import find_device
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.cross_validation import Curve, best_step, curve
from embedding_expansion.training.job import Features
from embedding_expansion.training.run import Outcome, resume, train_on
from embedding_expansion.training.split import Split
from embedding_expansion.tuning.arms import with_arm
from embedding_expansion.tuning.features import on_device
from embedding_expansion.tuning.plan import Plan
from embedding_expansion.tuning.results import Result
from embedding_expansion.tuning.space import Value

_COMMAND = ("embex", "tune")


@dataclass(frozen=True)
class Stopped:
    """A trial that a signal has stopped after saving."""

    signal: int


def run_trial(
    plan: Plan, arm: str, number: int, values: dict[str, Value], folder: Path, features: Sequence[Features | None]
) -> Result | Stopped:
    """Trains and measures a trial, or goes on with one that was interrupted.

    Args:
        plan: the plan of the study.
        arm: the arm.
        number: the number of the trial, which gives its steps.
        values: the searched options.
        folder: the folder of the trial; it is the run folder if there is one fold.
        features: the cached features of each fold, or None.

    Returns:
        The result. A training that diverged has the value 0.

    Raises:
        InvalidInput, DataError, RunError, ResourceError: the run failed for a reason that is not the trial's.
    """
    config = plan.space.apply(with_arm(plan.config, arm), values, number)
    shown = {name: float(f"{value:.3g}") if isinstance(value, float) else value for name, value in values.items()}
    steps, seconds, curves = config.steps, 0.0, list[Curve]()
    for fold, (split, cached) in enumerate(zip(plan.splits, features, strict=True), start=1):
        run = RunFolder(folder / f"fold-{fold}" if len(plan.splits) > 1 else folder)
        began = time.perf_counter()
        try:
            stopped_by = _run(dataclasses.replace(config, out=str(run.path)), run, split, cached)
        except RunError as error:
            if not isinstance(error.__cause__, NotFinite):
                raise
            seconds, reason = seconds + time.perf_counter() - began, str(error.__cause__)
            # The steps that were planned: the budget that this trial had, as the others had theirs.
            trained = len(plan.splits) * steps
            return Result(arm, number, 0.0, 0.0, 0.0, None, 0, steps, trained, round(seconds, 1), shown, reason)
        if stopped_by:
            return Stopped(stopped_by)
        seconds += (run.read_metrics() or {})["wall_seconds"]  # with those of an earlier process
        curves.append(_after_start(curve(run)))
    step, means, spread = best_step(curves, plan.measure, only_last=config.optimizer.schedule == "cosine")
    trained = len(curves) * steps
    return Result(
        arm,
        number,
        means[plan.measure],
        means["recall_at_1"],
        means["map_at_r"],
        spread,
        step,
        steps,
        trained,
        round(seconds, 1),
        shown,
    )


def _run(config: TrainConfig, run: RunFolder, split: Split, features: Features | None) -> int:
    """Trains a fold unless it is complete; returns the number of the signal that stopped it, or 0.

    What the run prints is dropped, as its log has the same.
    """
    if run.path.exists() and run.read_metrics() is not None:
        return 0
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        outcome = _resumed(run) if features is None else None  # a head begins again, which takes seconds
        outcome = _begun(config, run, split, features) if outcome is None else outcome
    if not outcome.signal:
        shutil.rmtree(run.checkpoints)  # nothing is left to resume, and the folds of many trials would fill the disk
    return outcome.signal


def _resumed(run: RunFolder) -> Outcome | None:
    """Goes on from the last checkpoint; None if the run cannot be resumed."""
    if not run.checkpoints.is_dir() or not any(run.checkpoints.iterdir()):
        return None
    try:
        return resume(run.path, command=_COMMAND)
    except RunError as error:
        if isinstance(error.__cause__, NotFinite):
            raise
        return None


def _begun(config: TrainConfig, run: RunFolder, split: Split, features: Features | None) -> Outcome:
    """Trains from the start, in place of what an interrupted process has left."""
    if run.path.exists():
        shutil.rmtree(run.path)
    on_its_device = None if features is None else on_device(features, find_device(config.device))
    return train_on(config, split, on_its_device, command=_COMMAND)


def _after_start(measured: Curve) -> Curve:
    """A curve without the measures of the start, which are the same for all arms."""
    return {step: measures for step, measures in measured.items() if step}
