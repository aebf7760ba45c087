"""Works through the grid: what is left, in which order, and who runs what."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.errors import InvalidInput
from embedding_expansion.evidence.differences import difference, records_of
from embedding_expansion.evidence.grid import PLAIN, TRIALS, Cell, Regime, cells, seeds
from embedding_expansion.evidence.results import Record, Results, add, is_same_as_default, read, tuning_group
from embedding_expansion.evidence.settings import values_of
from embedding_expansion.runs.run_lock import LockHeld, RunLock

#: Runs a cell with the values that it is given, and returns its record.
Runner = Callable[[Regime, Cell, dict[str, float]], Record]
_LOCKS = "locks"  # a folder beside the features, which does not belong into a repository
#: The seeds are doubled, once, where half the width of the default's interval in Recall@1 exceeds this many points.
WIDE = 2.0
_WAIT = 2.0  # seconds, for trials that another process runs


@dataclass(frozen=True)
class Part:
    """A part of the grid, for one of several machines: "2/3" is the second of three."""

    number: int
    parts: int

    @classmethod
    def read(cls, text: str) -> Part:
        """Reads a part.

        Raises:
            InvalidInput: it is not of the form K/N with K from 1 to N.
        """
        number, _, parts = text.partition("/")
        if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
            raise InvalidInput(f"part is {text}; pass K/N, such as 1/3 for the first of three machines")
        return cls(int(number), int(parts))

    def has(self, group: str) -> bool:
        """Whether the runs of a group belong to this part."""
        digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.parts == self.number - 1


def planned(regime: Regime, results: Results) -> Iterator[Cell]:
    """The runs of a regime, with further seeds where the default is too uncertain."""
    yield from cells(regime, results.chosen)
    form = results.choice.get("default", PLAIN)
    if form == PLAIN:
        return
    for loss in regime.losses:
        for setting in ("tuned", *regime.settings):
            first = seeds(regime, setting)
            both = (records_of(results, regime, loss, arm, setting) for arm in (PLAIN, form))
            plain, own = ({seed: each for seed, each in records.items() if seed in first} for records in both)
            found = difference(plain, own, "recall_at_1")
            if setting != "fast" and found is not None and found.pairs == len(first) and found.half_width > WIDE:
                more = range(first.stop, first.stop + len(first))
                yield from (Cell(regime.name, loss, arm, setting, seed) for arm in (PLAIN, form) for seed in more)


def left(regimes: Sequence[Regime], results: Results, part: Part) -> Iterator[tuple[Regime, Cell]]:
    """The runs of some regimes that have no record yet. Seeds of one arm follow its trials."""
    for regime in regimes:
        for cell in planned(regime, results):
            if (
                part.has(tuning_group(cell, regime))
                and results.of(cell) is None
                and not is_same_as_default(cell, regime, results)
            ):
                yield regime, cell


def expected_seconds(regime: Regime, results: Results) -> float:
    """The time of a run of a regime on one core: the median of those that are done, or an estimate."""
    known = [run["wall_seconds"] for key, run in results.runs.items() if key.startswith(f"{regime.name}/")]
    return statistics.median(known) if known else regime.seconds


def work(
    folder: Path,
    scratch: Path,
    regimes: Sequence[Regime],
    part: Part,
    runner: Runner,
    *,
    hours: float | None,
    show: Callable[[Record], object],
) -> str:
    """Runs what is left and no other process runs, until nothing is left or the time is over.

    Args:
        folder: the folder of the results.
        scratch: a folder for locks.
        regimes: the regimes.
        part: the part of the grid.
        runner: runs a cell.
        hours: after which no run is begun; None for no limit.
        show: called with each new record.

    Returns:
        Why it ended, in words.
    """
    locks = scratch / _LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    end = None if hours is None else time.monotonic() + 3600 * hours
    while True:
        has_run, is_waiting = False, False
        for regime, cell in list(left(regimes, read(folder), part)):
            if end is not None and time.monotonic() > end:
                return f"stopped after {hours:g} hours"
            found = _attempt(folder, locks, regime, cell, runner)
            if isinstance(found, dict):
                show(found)
                has_run = True
            else:
                is_waiting |= found
        if not has_run and not is_waiting:
            return "nothing is left that can be run now"
        if not has_run:
            time.sleep(_WAIT)


def _attempt(folder: Path, locks: Path, regime: Regime, cell: Cell, runner: Runner) -> Record | bool:
    """Runs a cell; otherwise returns whether another process is working on what it needs."""
    try:
        lock = RunLock(locks, name=cell.key.replace("/", "-")).__enter__()
    except LockHeld:
        return True
    with closing(lock):
        results = read(folder)
        if results.of(cell) is not None or is_same_as_default(cell, regime, results):
            return False
        best: dict[str, float] = {}
        if cell.setting == "tuned":
            trial = results.best_trial(tuning_group(cell, regime), TRIALS)
            if trial is None:  # its trials come first, here or in another process
                return False
            best = trial["values"]
        record = runner(regime, cell, values_of(cell, regime, best))
        add(folder, [record])
    return record
