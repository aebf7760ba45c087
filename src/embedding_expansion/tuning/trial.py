"""One trial: an ordinary run for each fold, measured on its held-out training classes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.errors import RunError
from embedding_expansion.model.network import NotFinite
from embedding_expansion.model.trained import find_device
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.job import Features
from embedding_expansion.training.run import Outcome, resume, train_on
from embedding_expansion.training.split import Split
from embedding_expansion.tuning.arms import with_arm
from embedding_expansion.tuning.features import on_device
from embedding_expansion.tuning.plan import Measure, Plan
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
    steps, seconds, curves = config.steps, 0.0, list[dict[int, dict[str, float]]]()
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
        curves.append(_curve(run))
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


def _curve(run: RunFolder) -> dict[int, dict[str, float]]:
    """Step -> the measures on the held-out classes, without those of the start, which are the same for all arms."""
    return {entry["step"]: entry["validation"] for entry in run.read_log() if "validation" in entry and entry["step"]}


def best_step(
    curves: Sequence[dict[int, dict[str, float]]], measure: Measure, *, only_last: bool = False
) -> tuple[int, dict[str, float], float | None]:
    """The step with the best mean over the folds, since one number of steps has to serve all of them.

    Args:
        curves: for each fold, step -> measures.
        measure: the measure to maximise; a tie goes to the higher MAP@R, then to the earlier step.
        only_last: whether only the last step counts, because the learning rate of the others belongs to more steps.

    Returns:
        The step, its measures as means over the folds, and the standard deviation of the measure over the folds (None
        for one fold).
    """
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    means = {
        step: {name: statistics.fmean(curve[step][name] for curve in curves) for name in ("recall_at_1", "map_at_r")}
        for step in (steps[-1:] if only_last else steps)
    }
    step = max(means, key=lambda at: (means[at][measure], means[at]["map_at_r"], -at))
    spread = statistics.stdev(curve[step][measure] for curve in curves) if len(curves) > 1 else None
    return step, means[step], spread
