"""The page of a study: value against budget for every arm, and all trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from embedding_expansion.app.pages.charts import Chart, chart
from embedding_expansion.app.pages.rendering import render, write_page
from embedding_expansion.tuning.plan import MEASURES, Plan
from embedding_expansion.tuning.results import Result, Standing, standings


@dataclass(frozen=True)
class Row:
    """A trial in a table, as text."""

    name: str
    value: str
    map_at_r: str
    step: str
    seconds: str
    options: list[str]


def write_tuning_page(plan: Plan, results: Sequence[Result], path: Path) -> None:
    """Writes the page of a study. The same results give the same bytes.

    Args:
        plan: the plan of the study.
        results: the results of its complete trials.
        path: the file to write.

    Raises:
        RunError: the file cannot be written.
    """
    found = standings(results)
    measure = MEASURES[plan.measure]
    loss = str(plan.config.loss["name"])
    facts = [
        ("data", plan.data),
        ("loss", loss),
        ("network", str(plan.config.model)),
        ("trials", f"{sum(len(standing.results) for standing in found)} of {plan.trials * len(plan.arms)}"),
        ("held-out training classes", _held_out(plan)),
        ("seed", str(plan.config.seed)),
    ]
    page = render(
        "tuning.html",
        kicker="Tuning",
        title=f"{loss} on {plan.data}",
        facts=facts,
        measure=measure,
        best=[(standing, _row(standing.best)) for standing in found],
        charts=_charts(measure, found),
        names=list(plan.space.dimensions),
        space=list(plan.settings["search"].items()),
        trials=[_row(result) for standing in found for result in standing.results],
        is_unequal=len({(len(standing.results), standing.steps) for standing in found}) > 1,
        folds=len(plan.splits),
    )
    write_page(path, page)


def _held_out(plan: Plan) -> str:
    held = [0 if split.validation is None else len(split.validation.classes) for split in plan.splits]
    count = len(plan.splits[0].dataset.train.classes)
    return f"{held[0]} of {count}" if len(held) == 1 else f"all {count}, in {len(held)} folds"


def _charts(measure: str, found: Sequence[Standing]) -> list[Chart]:
    """The best value so far, against steps and against seconds."""
    drawn = [
        chart(f"Best {measure} against {title}", {each.arm: stairs(each.curve(budget)) for each in found}, at=at)
        for title, budget, at in (
            ("training steps", "trained", "{} steps"),
            ("seconds", "seconds", "{} seconds"),
        )
    ]
    return [each for each in drawn if each is not None]


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of a line that keeps its value until the next point.

    Example:
        >>> stairs([(1.0, 0.5), (2.0, 0.5), (3.0, 0.7)])
        [(1.0, 0.5), (2.0, 0.5), (3.0, 0.5), (3.0, 0.7)]
    """
    corners = [*points[:1]]
    for (_, before), (place, value) in pairwise(points):
        corners += [(place, before)] if value == before else [(place, before), (place, value)]
    return corners


def _row(result: Result) -> Row:
    value = f"{result.value:.3f}" + ("" if result.spread is None else f" ± {result.spread:.3f}")
    return Row(
        f"{result.arm}-{result.number:03d}",
        "diverged" if result.diverged else value,
        f"{result.map_at_r:.3f}",
        f"{result.step} of {result.steps}",
        f"{result.seconds:.0f}",
        [f"{given:.3g}" for given in result.values.values()],
    )
