"""The results on disk: one JSON file, a run a line, which several processes extend and which can be joined.

The file is made for a repository: adding a run adds a line. It is rewritten as a whole, under a lock, so that a kill at
any moment leaves the old file or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.evidence.grid import PLAIN, TRIALS, UNTUNED, Cell, Regime, Setting
from embedding_expansion.files import read_json, write_atomically
from embedding_expansion.runs.run_lock import waiting_for

#: What a run has given, see `run.run`, with its "key", "values", "commit" and "machine".
Record: TypeAlias = dict[str, Any]
FILE = "results.json"
_FORMAT = 1
_RESTORE = "restore it, or pass another folder with --out"


@dataclass
class Results:
    """The runs by key, and the choice of the default, which is made once.

    Attributes:
        runs: the records.
        choice: what was chosen, when, and on which figures; empty before the choice.
    """

    runs: dict[str, Record] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The forms to confirm besides the paper's: the default and two balanced ones; empty before the choice."""
        if not self.choice:
            return ()
        forms = dict.fromkeys([self.choice["default"], *self.choice["balanced"]])
        return tuple(form for form in forms if form not in (PLAIN, "paper"))

    def best_trial(self, group: str, trials: int) -> Record | None:
        """The trial with the best Recall@1 on held-out classes; None if there are not as many trials yet.

        A tie goes to the higher MAP@R, then to the earlier trial, which for the first has the given values.
        """
        found = [self.runs.get(f"{group}/trial/{number}") for number in range(trials)]
        known = [record for record in found if record is not None]
        return max(known, key=_held_out) if len(known) == trials else None

    def of(self, cell: Cell) -> Record | None:
        """The record of a run, if there is one."""
        return self.runs.get(cell.key)


def _held_out(record: Record) -> tuple[float, float]:
    if record.get("diverged") or not record["held_out"]:
        return (-1.0, -1.0)
    _, recall, precision = record["held_out"][-1]
    return recall, precision


def read(folder: Path) -> Results:
    """Reads the results in a folder; without a file there are none.

    Raises:
        RunError: the file is broken or of another format.
    """
    path = folder / FILE
    if not path.exists():
        return Results()
    found = read_json(path, _RESTORE)
    runs = found.get("runs")
    if found.get("format") != _FORMAT or not isinstance(runs, list) or not all("key" in run for run in runs):
        raise RunError(f"{path} is not a file of embex reproduce evidence, or of another version; {_RESTORE}")
    return Results({run["key"]: run for run in runs}, found.get("choice") or {})


@contextmanager
def extended(folder: Path) -> Iterator[Results]:
    """Reads the results, and writes what the block has changed. Only one process at a time is in such a block."""
    with waiting_for(folder, ".lock"):
        results = read(folder)
        yield results
        lines = [json.dumps(results.runs[key], ensure_ascii=False) for key in sorted(results.runs)]
        head = f'{{"format": {_FORMAT},\n"choice": {json.dumps(results.choice)},\n"runs": [\n'
        text = head + ",\n".join(lines) + "\n]}\n"
        write_atomically(folder / FILE, lambda partial: partial.write_text(text, encoding="utf-8"))


def add(folder: Path, records: Iterable[Record]) -> int:
    """Adds runs that are not there yet; returns how many these were."""
    with extended(folder) as results:
        new = {record["key"]: record for record in records if record["key"] not in results.runs}
        results.runs |= new
    return len(new)


def join(folder: Path, other: Results) -> tuple[int, int]:
    """Adds the runs of other results, and their choice if there is none yet.

    Returns:
        How many runs were added, and how many were not, because they are tuned runs of other values than those of the
        best trial here.

    Raises:
        InvalidInput: both have a choice, and these differ.
    """
    with extended(folder) as results:
        if results.choice and other.choice and results.choice != other.choice:
            raise InvalidInput(
                f"the choices differ: {results.choice['default']} of {results.choice['date']}, and "
                f"{other.choice['default']} of {other.choice['date']}; join only results that continue each other"
            )
        results.choice = results.choice or other.choice
        new = {key: record for key, record in other.runs.items() if key not in results.runs}
        results.runs |= {key: record for key, record in new.items() if "/tuned/" not in key}
        tuned = {key: record for key, record in new.items() if "/tuned/" in key and _fits(record, results)}
        results.runs |= tuned
    left_out = sum("/tuned/" in key for key in new) - len(tuned)
    return len(new) - left_out, left_out


def _fits(record: Record, results: Results) -> bool:
    """Whether a tuned run has the values of the best trial, as far as its trials are known."""
    best = results.best_trial(record["key"].partition("/tuned/")[0], TRIALS)
    return best is None or best["values"] == record["values"]


def tuning_group(cell: Cell, regime: Regime) -> str:
    """The group whose trials tune a run: its own, or the same in another regime."""
    return f"{regime.tuned_in or regime.name}/{cell.loss}/{cell.arm}"


def tuned_setting(cell: Cell, regime: Regime, results: Results) -> Setting:
    """Where the tuned runs of an arm are: under "default" if no trial was better than the given values."""
    best = results.best_trial(tuning_group(cell, regime), TRIALS)
    has_default = "default" in regime.settings and cell.arm in (PLAIN, *UNTUNED)
    return "default" if best is not None and best["key"].endswith("/trial/0") and has_default else "tuned"


def is_same_as_default(cell: Cell, regime: Regime, results: Results) -> bool:
    """Whether a tuned run has the given values, and is another run of the grid."""
    return cell.setting == "tuned" and tuned_setting(cell, regime, results) == "default"
