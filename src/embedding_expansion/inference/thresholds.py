"""`thresholds.json`, beside a model: what similarity was found to mean on labelled data, a threshold for each question.

Nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.files import read_json, write_json
from embedding_expansion.retrieval.threshold import TASKS, Task, Threshold
from embedding_expansion.training.run_lock import writing_into

THRESHOLDS = "thresholds.json"

#: "same or not" for pairs of images, "known or unknown" for an image and a collection; either may be missing.
Thresholds: TypeAlias = Mapping[Task, Threshold]


def thresholds_json(thresholds: Thresholds) -> dict[str, Any]:
    """As JSON values."""
    return {task: json.loads(threshold.to_json()) for task, threshold in thresholds.items()}


def thresholds_of_json(content: Any) -> Thresholds:
    """What `thresholds_json` has made.

    Raises:
        InvalidInput: it is something else.
    """
    if not isinstance(content, Mapping):
        raise InvalidInput(f"the thresholds are a {type(content).__name__}; calibrate again")
    found: dict[Task, Threshold] = {}
    for task, value in content.items():
        threshold = Threshold.from_json(json.dumps(value))
        if task not in TASKS or threshold.task != task:
            raise InvalidInput(f"the threshold under {task!r} is for {threshold.task!r}; known are {TASKS}")
        found[threshold.task] = threshold
    return found


def read_thresholds(folder: Path) -> Thresholds:
    """The thresholds that were calibrated for the model of a folder; none where there is no such file.

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
    """Writes thresholds.json; one that is there is replaced at once.

    Raises:
        RunError: it cannot be written, or another process writes into this run folder.
    """
    with writing_into(folder / THRESHOLDS):
        write_json(folder / THRESHOLDS, thresholds_json(thresholds))
