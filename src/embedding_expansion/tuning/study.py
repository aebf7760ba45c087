"""A study on disk: which trials there are, who runs them, and what they gave.

tune.json          what makes trials comparable: the measure, the folds, the search space
fingerprint.json   the options and the images, when the study was started
study.sqlite       the trials: one Optuna study for each arm
trials/ARM-NNN/    the run of a trial; with folds, fold-1/, fold-2/, ... in it
best/ARM.yaml      the best configuration of each arm, for embex train --config
report.html        value against budget
locks/             who decides on the next trial, and who runs which

A process takes a trial under the lock `next`, and holds the lock of the trial until it has told the result. The system
releases the locks of a dead process, and the next process that looks for work takes its trial over, with the same
values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.files import read_json, write_json
from embedding_expansion.runs.run_lock import LockHeld, RunLock, waiting_for
from embedding_expansion.training.fingerprint import Fingerprint, changed_data, changed_options
from embedding_expansion.tuning.plan import Plan, comparable
from embedding_expansion.tuning.results import Result
from embedding_expansion.tuning.space import Choice, Range, Value

#: Trials of each arm before the sampler begins to learn from results; the first one has the given values, and the
#: others have random ones, the same for all arms.
STARTUP = 5
_NUMBER, _RESULT = "number", "result"  # attributes of a trial in the database
_OTHER = "pass another --out"
_BUSY = 60  # seconds that SQLite waits for another process


@dataclass(frozen=True)
class Claim:
    """A trial that this process runs."""

    arm: str
    number: int
    values: dict[str, Value]
    folder: Path
    lock: RunLock
    database_number: int

    @property
    def name(self) -> str:
        """Such as paper-003."""
        return trial_name(self.arm, self.number)


def trial_name(arm: str, number: int) -> str:
    """The name of a trial, and of its folder."""
    return f"{arm}-{number:03d}"


class Study:
    """Opens or starts the study of a plan in a folder.

    Args:
        path: the folder.
        plan: the plan. Arms and number of trials may differ from those before.

    Raises:
        RunError: the folder is something else, was started with other data or options, or cannot be read or written.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        self._locks = path / "locks"
        self._about, self._seen = path / "tune.json", path / "fingerprint.json"
        self.features = path / "features.safetensors"
        self.report = path / "report.html"
        self.best = path / "best"
        if "?" in str(path.resolve()):
            raise InvalidInput(f"{path} contains a question mark, which the database does not support; {_OTHER}")
        if path.exists() and not (path.is_dir() and (self._locks.exists() or not any(path.iterdir()))):
            raise RunError(f"{path} is not a study made by embex tune, and it is not empty; {_OTHER}")
        try:
            for folder in (self._locks, path / "trials", self.best):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path} cannot be created ({error.strerror}); {_OTHER}") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.lock("next"):
            self._recognise()
            self._storage = _open(path / "study.sqlite")

    def _recognise(self) -> None:
        """Compares with what the study was started with, or writes it down."""
        settings = self.plan.settings
        before = Fingerprint.read(self._seen)
        if before is None or not self._about.exists():
            write_json(self._about, settings)
            self.plan.seen.write(self._seen)
            return
        was = read_json(self._about, f"restore it, or {_OTHER}")
        now = json.loads(json.dumps(settings))
        changes = [f"{name} is {now[name]} and was {was.get(name)}" for name in now if now[name] != was.get(name)]
        changes += changed_options(before, comparable(self.plan.config)) + changed_data(before, self.plan.seen)
        if changes:
            shown = "; ".join(change.replace(" in config.yaml", "") for change in changes)
            raise RunError(f"{self.path} is a study of something else: {shown}; undo this, or {_OTHER}")

    def lock(self, name: str) -> AbstractContextManager[None]:
        """A context that holds a lock of the study, and waits for it if another process has it."""
        return waiting_for(self._locks, name)

    def _try(self, name: str) -> RunLock | None:
        try:
            return RunLock(self._locks, name=name).__enter__()
        except LockHeld:
            return None

    def claim(self) -> Claim | None:
        """Takes the next trial: one that a dead process has left, or a new one. Arms take turns.

        Returns:
            The trial, or None if all trials are complete or run in other processes.
        """
        with self.lock("next"), _database():
            trials = {arm: self._trials(arm) for arm in self.plan.arms}
            for number in range(self.plan.trials):
                for arm in self.plan.arms:
                    known = trials[arm].get(number)
                    if known is not None and known.state.is_finished():
                        continue
                    lock = self._try(trial_name(arm, number))
                    if lock is not None:
                        return self._claimed(arm, number, known, lock)
        return None

    def _claimed(self, arm: str, number: int, known: FrozenTrial | None, lock: RunLock) -> Claim:
        with ExitStack() as stack:
            stack.enter_context(closing(lock))
            found = self._ask(arm, number) if known is None else known
            stack.pop_all()  # the lock is held until the result is stored
        folder = self.path / "trials" / trial_name(arm, number)
        return Claim(arm, number, dict(found.params), folder, lock, found.number)

    def finish(self, claim: Claim, result: Result) -> None:
        """Stores the result of a trial."""
        with self.lock("next"), _database():
            study = self._study(claim.arm)
            (known,) = [trial for trial in study.get_trials(deepcopy=False) if trial.number == claim.database_number]
            self._note(known, _RESULT, result.as_json())
            study.tell(claim.database_number, result.value)

    def results(self) -> list[Result]:
        """The results of all complete trials, by arm and number."""
        with _database():
            return [
                Result.from_json(arm, trial.user_attrs[_RESULT])
                for arm in sorted(optuna.get_all_study_names(self._storage))
                for _, trial in sorted(self._trials(arm).items())
                if trial.state is TrialState.COMPLETE
            ]

    def _study(self, arm: str) -> optuna.Study:
        return optuna.create_study(
            storage=self._storage, study_name=arm, direction="maximize", sampler=RandomSampler(), load_if_exists=True
        )

    def _trials(self, arm: str) -> dict[int, FrozenTrial]:
        """The trials of an arm by number. One without a number was left before its values were complete."""
        return {
            trial.user_attrs[_NUMBER]: trial
            for trial in self._study(arm).get_trials(deepcopy=False)
            if _NUMBER in trial.user_attrs and trial.state is not TrialState.FAIL
        }

    def _ask(self, arm: str, number: int) -> FrozenTrial:
        """Draws the values of a new trial and stores them. Called under the lock, so nothing else draws."""
        study = self._study(arm)
        trials = study.get_trials(deepcopy=False)
        for left in trials:
            if left.state is TrialState.RUNNING and _NUMBER not in left.user_attrs:
                study.tell(left.number, state=TrialState.FAIL)
        if number == 0 and not any(trial.state is TrialState.WAITING for trial in trials):
            study.enqueue_trial(self.plan.space.defaults())
        study.sampler = _sampler(self.plan.config.seed, number)
        trial = study.ask({name: _distribution(values) for name, values in self.plan.space.dimensions.items()})
        trial.set_user_attr(_NUMBER, number)
        (found,) = [known for known in study.get_trials(deepcopy=False) if known.number == trial.number]
        return found

    def _note(self, trial: FrozenTrial, name: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, name, value)


@contextmanager
def _database() -> Iterator[None]:
    """Reports a broken or locked database in one sentence."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.OptunaError, json.JSONDecodeError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise RunError(f"study.sqlite cannot be used ({reason}); restore it, or {_OTHER}") from error


def _open(path: Path) -> optuna.storages.RDBStorage:
    with _database():
        try:
            return optuna.storages.RDBStorage(
                f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": _BUSY}}
            )
        except RuntimeError as error:  # written by another version of Optuna
            raise RunError(f"{path} cannot be used ({' '.join(str(error).split())}); {_OTHER}") from error


def _sampler(seed: int, number: int) -> BaseSampler:
    """The sampler of a trial. Its seed depends on the trial's number and not on the arm."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest()
    own = int.from_bytes(digest, "big")
    return RandomSampler(own) if number < STARTUP else TPESampler(seed=own, n_startup_trials=1)


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution(values.options)
    return FloatDistribution(values.low, values.high, log=True)
