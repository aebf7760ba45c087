"""What a study has written, read apart from the code that wrote it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any


def stored(study: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """(arm, number) -> the result of each complete trial in study.sqlite."""
    query = (
        "select studies.study_name, trials.trial_id, trial_user_attributes.key, trial_user_attributes.value_json "
        "from trials join studies using (study_id) join trial_user_attributes using (trial_id) "
        "where trials.state = 'COMPLETE'"
    )
    connection = sqlite3.connect(f"file:{study / 'study.sqlite'}?mode=ro", uri=True)
    try:
        rows = connection.execute(query).fetchall()
    finally:
        connection.close()
    trials: dict[tuple[str, int], dict[str, Any]] = {}
    for arm, trial, key, value in rows:
        trials.setdefault((arm, trial), {})[key] = json.loads(value)
    found = {(arm, given["number"]): given["result"] for (arm, _), given in trials.items()}
    assert len(found) == len(trials), "a trial is stored twice"
    return found


def untimed(study: Path, arms: Collection[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """The same for some arms, without the seconds."""
    return {
        key: {name: value for name, value in result.items() if name != "seconds"}
        for key, result in stored(study).items()
        if key[0] in arms
    }


def curve(run: Path) -> dict[int, dict[str, float]]:
    """Step -> measures on the held-out classes, after the start."""
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["validation"] for entry in entries if "validation" in entry and entry["step"] > 0}
