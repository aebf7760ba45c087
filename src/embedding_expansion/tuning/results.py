"""The results of trials, what each arm has reached for its budget, and the best configuration of each arm."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.files import write_atomically
from embedding_expansion.runs import config as configuration
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.tuning.arms import with_arm
from embedding_expansion.tuning.plan import MEASURES, Plan
from embedding_expansion.tuning.space import Value


@dataclass(frozen=True)
class Result:
    """The result of a trial.

    Attributes:
        arm: the arm.
        number: the number of the trial within its arm, from 0.
        value: the measure that is maximised, the mean over the folds; 0 if the training diverged.
        recall_at_1: Recall@1 on the held-out training classes, the mean over the folds.
        map_at_r: MAP@R, likewise.
        spread: the standard deviation of the value over the folds; None for one fold.
        step: the step with the best value.
        steps: the steps of the trial in each fold.
        trained: the steps of all folds together.
        seconds: the time of all folds together.
        values: the searched options.
        diverged: why there is no model; empty if there is one.
    """

    arm: str
    number: int
    value: float
    recall_at_1: float
    map_at_r: float
    spread: float | None
    step: int
    steps: int
    trained: int
    seconds: float
    values: dict[str, Value]
    diverged: str = ""

    def as_json(self) -> dict[str, Any]:
        """The result for the database, which knows its arm."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "arm"}

    @classmethod
    def from_json(cls, arm: str, values: dict[str, Any]) -> Result:
        """Reads the output of `as_json`."""
        return cls(arm=arm, **values)


@dataclass(frozen=True)
class Standing:
    """What an arm has reached.

    Attributes:
        arm: the arm.
        results: its trials in the order of their numbers.
        best: the best of them; in a tie the one of higher MAP@R, then the earlier one.
    """

    arm: str
    results: list[Result]
    best: Result

    @property
    def steps(self) -> int:
        """The training steps of all trials together."""
        return sum(result.trained for result in self.results)

    @property
    def seconds(self) -> float:
        """The time of all trials together."""
        return sum(result.seconds for result in self.results)

    def curve(self, budget: str) -> list[tuple[float, float]]:
        """The best value so far against the budget spent so far.

        Args:
            budget: "trained" (steps) or "seconds".
        """
        spent, best, points = 0.0, float("-inf"), list[tuple[float, float]]()
        for result in self.results:
            spent += getattr(result, budget)
            best = max(best, result.value)
            points.append((spent, best))
        return points


def standings(results: Sequence[Result]) -> list[Standing]:
    """The arms that have a result, the best first."""
    arms: dict[str, list[Result]] = {}
    for result in results:
        arms.setdefault(result.arm, []).append(result)
    found = [
        Standing(arm, own, max(own, key=lambda result: (result.value, result.map_at_r, -result.number)))
        for arm, own in arms.items()
    ]
    return sorted(found, key=lambda standing: (-standing.best.value, -standing.best.map_at_r))


def leaderboard(found: Sequence[Standing], plan: Plan) -> list[str]:
    """The standings as lines of text."""
    lines = [
        f"  {'arm':<18}{'trials':>7}{MEASURES[plan.measure]:>10}{'first':>8}{'MAP@R':>8}{'steps':>9}{'time':>8}  best"
    ]
    for standing in found:
        best = standing.best
        first = next((f"{result.value:.3f}" for result in standing.results if result.number == 0), "-")
        lines.append(
            f"  {standing.arm:<18}{len(standing.results):>7}{best.value:>10.3f}{first:>8}{best.map_at_r:>8.3f}"
            f"{standing.steps:>9}{standing.seconds:>7.0f}s  {spelt(best)}"
        )
    return lines


def spelt(result: Result) -> str:
    """The searched values of a trial in words, with its number and steps."""
    names = {"optimizer.lr": "lr", "optimizer.backbone_lr_factor": "backbone", "sampler.images_per_class": "K"}
    values = [f"{names.get(name, name.partition('.')[2])} {value:.3g}" for name, value in result.values.items()]
    return ", ".join([f"trial {result.number}", f"step {result.step} of {result.steps}", *values])


def best_config(plan: Plan, best: Result) -> TrainConfig:
    """The configuration that trains the best trial of an arm again, on all training classes.

    It trains as many steps as gave the best value on the held-out classes, and keeps the last weights.
    """
    config = plan.space.apply(with_arm(plan.config, best.arm), best.values, best.number)
    steps = max(best.step, config.memory.start + 1)
    return dataclasses.replace(config, steps=steps, protocol="last", measure_before=True, measure_test=True)


def write_best(plan: Plan, found: Sequence[Standing], folder: Path) -> None:
    """Writes the best configuration of each arm that is in the plan and has a model."""
    for standing in found:
        if standing.arm in plan.arms and not standing.best.diverged:
            path = folder / f"{standing.arm}.yaml"
            text = configuration.dump(best_config(plan, standing.best))
            write_atomically(path, functools.partial(Path.write_text, data=text, encoding="utf-8"))
