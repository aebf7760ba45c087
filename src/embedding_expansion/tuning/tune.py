"""Runs a study: takes one trial after the other until none is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from embedding_expansion.training.job import Features
from embedding_expansion.tuning.features import cached_features
from embedding_expansion.tuning.plan import Plan
from embedding_expansion.tuning.results import Result, leaderboard, spelt, standings, write_best
from embedding_expansion.tuning.study import Study
from embedding_expansion.tuning.trial import Stopped, run_trial


def tune(plan: Plan, path: Path, show: Callable[[Study, list[Result]], object]) -> int:
    """Runs the trials of a plan that no other process has taken.

    Args:
        plan: the plan.
        path: the folder of the study, which is started or continued.
        show: called with all results after every trial, one process at a time.

    Returns:
        The number of the signal that stopped a trial after saving, or 0.

    Raises:
        RunError: the folder is no study of this plan, or a trial cannot be stored.
        InvalidInput, DataError, ResourceError: a trial cannot run.
    """
    study = Study(path, plan)
    features: Sequence[Features | None] = [None] * len(plan.splits)
    if plan.is_head_only:
        with study.lock("features"):
            features = cached_features(plan, study.features)
    while (claim := study.claim()) is not None:
        with contextlib.closing(claim.lock):
            outcome = run_trial(plan, claim.arm, claim.number, claim.values, claim.folder, features)
            if isinstance(outcome, Stopped):
                return outcome.signal
            study.finish(claim, outcome)
        _publish(study, show, claim.name, outcome)
    _publish(study, show)
    return 0


def _publish(
    study: Study, show: Callable[[Study, list[Result]], object], name: str = "", new: Result | None = None
) -> None:
    """Prints the leaderboard, and writes the best configurations and the page."""
    with study.lock("next"):
        results = study.results()
        found = standings(results)
        write_best(study.plan, [each for each in found if new is None or each.best == new], study.best)
        show(study, results)
    if new is not None:
        said = (
            f"diverged: {new.diverged}" if new.diverged else f"Recall@1 {new.recall_at_1:.3f}, MAP@R {new.map_at_r:.3f}"
        )
        print(f"{name}: {said}, {new.seconds:.0f} s; {spelt(new)}")
        print("\n".join(leaderboard(found, study.plan)), flush=True)
