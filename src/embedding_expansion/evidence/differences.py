"""The differences of all arms to the plain loss, from the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from embedding_expansion.evidence.grid import PLAIN, Cell, Regime, Setting, arms, seeds
from embedding_expansion.evidence.results import Record, Results, tuned_setting
from embedding_expansion.retrieval.comparison import Difference, holm, over_classes, paired

MEASURES = ("recall_at_1", "map_at_r", "nmi", "f1")
Side = Literal["test", "held_out"]


@dataclass(frozen=True)
class ComparedArm:
    """An arm of a loss in a regime, compared with the plain loss.

    Attributes:
        regime, loss, arm, setting: which one.
        seeds: the number of its runs.
        values: its learning rate and loss parameter.
        means: the mean of each measure over the seeds, in percent.
        differences: the paired difference of each measure, in points.
        corrected: Holm's p-value of Recall@1 among the arms of the regime and setting.
        classes: the interval of the difference in Recall@1 over test classes, in points.
        seconds: the mean time of the training steps.
        diverged: the number of seeds that diverged.
        coincided: the number of seeds with the warning that all embeddings coincide.
    """

    regime: str
    loss: str
    arm: str
    setting: Setting
    seeds: int
    values: dict[str, float]
    means: dict[str, float]
    differences: dict[str, Difference | None]
    corrected: float | None
    classes: tuple[float, float] | None
    seconds: float
    diverged: int
    coincided: int


def records_of(results: Results, regime: Regime, loss: str, arm: str, setting: Setting) -> dict[int, Record]:
    """The records of the seeds of an arm."""
    shown = setting
    if setting == "tuned":
        shown = tuned_setting(Cell(regime.name, loss, arm, "tuned", 1), regime, results)
    prefix = f"{regime.name}/{loss}/{arm}/{shown}/"
    first = seeds(regime, setting)
    known = first if setting == "fast" else range(1, 1 + 2 * len(first))  # they may be doubled
    found = {seed: results.runs.get(f"{prefix}{seed}") for seed in known}
    return {seed: record for seed, record in found.items() if record is not None}


def value(record: Record, measure: str, side: Side) -> float:
    """A measure in percent; 0 if the training diverged."""
    if record.get("diverged"):
        return 0.0
    if side == "test":
        return float(100 * record["test"][measure])
    return float(100 * record["held_out"][-1][1 + ("recall_at_1", "map_at_r").index(measure)])


def difference(
    plain: dict[int, Record], other: dict[int, Record], measure: str, side: Side = "test"
) -> Difference | None:
    """The paired difference of a measure, in points."""
    return paired(*({seed: value(record, measure, side) for seed, record in arm.items()} for arm in (plain, other)))


def rows(results: Results, regime: Regime, setting: Setting) -> list[ComparedArm]:
    """The arms of a regime that have a record, the plain loss first."""
    found = list(_rows(results, regime, setting))
    compared = [row for row in found if row.differences["recall_at_1"] is not None]
    p = [row.differences["recall_at_1"].p for row in compared]  # type: ignore[union-attr]
    corrected = dict(zip(((row.loss, row.arm) for row in compared), holm(p), strict=True))
    return [ComparedArm(**{**vars(row), "corrected": corrected.get((row.loss, row.arm))}) for row in found]


def _rows(results: Results, regime: Regime, setting: Setting) -> Iterator[ComparedArm]:
    for loss in regime.losses:
        plain = records_of(results, regime, loss, PLAIN, setting)
        for arm in arms(regime, loss, results.chosen):
            own = records_of(results, regime, loss, arm, setting)
            if not own:
                continue
            is_plain = arm == PLAIN
            yield ComparedArm(
                regime.name,
                loss,
                arm,
                setting,
                len(own),
                next(iter(own.values()))["values"],
                {name: sum(value(each, name, "test") for each in own.values()) / len(own) for name in MEASURES},
                {name: None if is_plain else difference(plain, own, name) for name in MEASURES},
                None,
                None if is_plain else _over_classes(plain, own),
                sum(each["seconds"] for each in own.values()) / len(own),
                sum("diverged" in each for each in own.values()),
                sum("coincides" in each for each in own.values()),
            )


def _over_classes(plain: dict[int, Record], own: dict[int, Record]) -> tuple[float, float] | None:
    classes = max((len(each["by_class"]["recall_at_1"]) for each in plain.values() if "by_class" in each), default=0)

    def in_percent(record: Record) -> list[float | None]:
        values = record["by_class"]["recall_at_1"] if "by_class" in record else [0] * classes  # 0 if it diverged
        return [None if each is None else each / 10 for each in values]

    sides = [{seed: in_percent(each) for seed, each in arm.items()} for arm in (plain, own)]
    return over_classes(*sides) if classes else None
