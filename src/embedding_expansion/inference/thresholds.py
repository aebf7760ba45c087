"""`thresholds.json` beside a model: the calibrated thresholds of similarity.

This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from embedding_expansion.checks import as_share
from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.files import read_json, write_json
from embedding_expansion.retrieval.threshold import TASKS, Task, Threshold
from embedding_expansion.runs.run_lock import writing_into

THRESHOLDS = "thresholds.json"

#: "same or not" is for pairs of images, "known or unknown" for an image and a collection. Either can be missing.
Thresholds: TypeAlias = Mapping[Task, Threshold]


@dataclass(frozen=True)
class Goal:
    """The target of a threshold. Exactly one attribute is given.

    Attributes:
        false_alarm_rate: the maximum share of accepted pairs among pairs of different classes, or of accepted queries
            among unknown queries.
        precision: the minimum share of accepted pairs (or queries) that are correct.
    """

    false_alarm_rate: float | None = None
    precision: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if len(given) != 1:
            raise InvalidInput("pass one of precision and false_alarm_rate, such as precision 0.99")
        for name, value in given.items():
            as_share(value, name)


def thresholds_json(thresholds: Thresholds) -> dict[str, Any]:
    """Converts thresholds to JSON values."""
    return {task: json.loads(threshold.to_json()) for task, threshold in thresholds.items()}


def thresholds_of_json(content: Any) -> Thresholds:
    """Reads the output of `thresholds_json`.

    Raises:
        InvalidInput: `content` is not such an output.
    """
    if not isinstance(content, Mapping):
        raise InvalidInput(f"the thresholds are a {type(content).__name__}, not a JSON object; calibrate again")
    found: dict[Task, Threshold] = {}
    for task, value in content.items():
        threshold = Threshold.from_json(json.dumps(value))
        if task not in TASKS or threshold.task != task:
            raise InvalidInput(f"the threshold of {task!r} is for {threshold.task!r}; pass one of {TASKS}")
        found[threshold.task] = threshold
    return found


def read_thresholds(folder: Path) -> Thresholds:
    """Reads the thresholds calibrated for the model of a folder; empty if there are none.

    Raises:
        RunError: the file is broken.
    """
    path = folder / THRESHOLDS
    if not path.exists():
        return {}
    remedy = "calibrate again, or remove the file"
    try:
        return thresholds_of_json(read_json(path, remedy))
    except InvalidInput as error:
        raise RunError(f"{path}: {error}; {remedy}") from error


def write_thresholds(folder: Path, thresholds: Thresholds) -> None:
    """Writes thresholds.json atomically.

    Raises:
        RunError: the file cannot be written, or another process is writing to this run folder.
    """
    with writing_into(folder / THRESHOLDS):
        write_json(folder / THRESHOLDS, thresholds_json(thresholds))
