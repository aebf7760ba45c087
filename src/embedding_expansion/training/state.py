"""The progress of a run: the state in a checkpoint besides tensors, and the schedule of evaluations and checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import time
import typing
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from embedding_expansion.errors import RunError
from embedding_expansion.runs.options import TrainConfig

#: Number of evaluations below the value of the start that get a warning.
FALLS = 3
_LATER = ("waiting_seconds", "model_seconds", "decoding_seconds")  # fields that older checkpoints lack
_OF_THE_PROCESS = ("since", "saved_best", "last_step")  # fields that checkpoints do not hold


@dataclass
class State:
    """The progress of a run, as JSON in its checkpoints."""

    optimizer: str  # its name, because the state of one optimiser does not fit another
    step: int = 0  # number of finished steps
    processes: int = 1  # number of processes when this was saved
    best_step: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    training_seconds: float = 0.0  # time spent in steps only
    wall_seconds: float = 0.0  # total time, including earlier starts
    waiting_seconds: float = 0.0  # of the job's `ReadingClock`, like the next two
    model_seconds: float = 0.0
    decoding_seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)  # of float16 gradients
    broken: dict[str, str] = field(default_factory=dict)  # unreadable images -> reason
    since: float = field(default_factory=time.perf_counter)  # last update of wall_seconds
    saved_best: int | None = None  # `best_step` as of the last checkpoint
    last_step: int | None = None  # the number of steps that a cross-validation has chosen

    def as_json(self) -> dict[str, Any]:
        """The state as JSON values, with the current wall time."""
        self.clock()
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _OF_THE_PROCESS}

    @classmethod
    def from_json(cls, values: dict[str, Any], source: Path) -> State:
        """Reads the output of `as_json`.

        Args:
            values: the JSON values.
            source: the file, for error messages.

        Raises:
            RunError: a field is missing, unknown or of the wrong type.
        """
        kinds = {name: kind for name, kind in typing.get_type_hints(cls).items() if name not in _OF_THE_PROCESS}
        values = dict.fromkeys(_LATER, 0.0) | values
        odd = sorted(kinds.keys() ^ values.keys())
        odd += [name for name, value in values.items() if name in kinds and not _is(value, kinds[name])]
        if odd:
            raise RunError(
                f"{source} has no valid progress of the run: {', '.join(odd)} missing, unknown or of the wrong type; "
                "restore it, or start a new run"
            )
        return cls(**values, saved_best=values["best_step"])

    def clock(self) -> float:
        """The total time of the run in seconds."""
        now = time.perf_counter()
        self.wall_seconds += now - self.since
        self.since = now
        return self.wall_seconds

    def record_evaluation(self, value: float, *, is_candidate: bool = True) -> None:
        """Records the result of an evaluation at this step. In a tie, the earlier step stays the best.

        Args:
            value: the measure that selects the weights.
            is_candidate: whether these weights may be selected at all.
        """
        if is_candidate and (self.best_value is None or value > self.best_value):
            self.best_step, self.best_value, self.evaluations_since_best = self.step, value, 0
        else:
            self.evaluations_since_best += 1

    @property
    def has_only_fallen(self) -> bool:
        """Whether this is the evaluation, the third, up to which none has reached the value of the start."""
        return self.best_step == 0 and self.evaluations_since_best == FALLS

    def end(self, config: TrainConfig) -> int:
        """The step after which training ends, unless patience runs out before."""
        return config.steps if self.last_step is None else min(config.steps, self.last_step)

    def stops_early(self, config: TrainConfig) -> bool:
        """Whether patience has run out, or the chosen number of steps is reached."""
        is_patient = config.patience is None or self.evaluations_since_best < config.patience
        return not is_patient or self.step >= self.end(config)

    def is_due(self, every: int, config: TrainConfig) -> bool:
        """Whether something that happens every `every` steps and at the last step is due."""
        return self.step % every == 0 or self.step == self.end(config)


def _is(value: object, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return isinstance(value, kind if origin in (None, UnionType) else origin)


def step_seed(seed: int, step: int) -> int:
    """The random seed within a step (for dropout), so that a resumed run draws the same numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "big") >> 1
