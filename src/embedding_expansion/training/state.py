"""How far a run has come: what a checkpoint holds besides tensors, and the steps on which things happen."""

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


@dataclass
class State:
    """The progress of a run, as JSON in its checkpoints."""

    optimizer: str  # by name: what one keeps per parameter is nothing to go on with for another
    step: int = 0  # steps done
    processes: int = 1  # that trained together when this was saved
    best_step: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    training_seconds: float = 0.0  # in steps only
    wall_seconds: float = 0.0  # of all processes that worked on the run
    scaler: dict[str, Any] = field(default_factory=dict)  # of the gradients in float16
    broken: dict[str, str] = field(default_factory=dict)  # images that could not be read, and why
    since: float = field(default_factory=time.perf_counter)  # when wall_seconds was last brought up to date

    def as_json(self) -> dict[str, Any]:
        """As a dictionary of JSON values, the wall time up to now."""
        self.clock()
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "since"}

    @classmethod
    def from_json(cls, values: dict[str, Any], source: Path) -> State:
        """From what `as_json` gave.

        Raises:
            RunError: a field is missing, of no such name, or of another kind; `source` is the file to blame.
        """
        kinds = {name: kind for name, kind in typing.get_type_hints(cls).items() if name != "since"}
        odd = sorted(kinds.keys() ^ values.keys())
        odd += [name for name, value in values.items() if name in kinds and not _is(value, kinds[name])]
        if odd:
            raise RunError(
                f"{source} does not say how far the run has come: {', '.join(odd)} missing, unknown or of the wrong "
                "kind; restore it, or start a new run"
            )
        return cls(**values)

    def clock(self) -> float:
        """Seconds that the run has taken up to now."""
        now = time.perf_counter()
        self.wall_seconds += now - self.since
        self.since = now
        return self.wall_seconds

    def judge(self, value: float) -> None:
        """Takes note of an evaluation at this step; of equal ones the first is the best."""
        if self.best_value is None or value > self.best_value:
            self.best_step, self.best_value, self.evaluations_since_best = self.step, value, 0
        else:
            self.evaluations_since_best += 1

    def stops_early(self, config: TrainConfig) -> bool:
        """Whether patience has run out."""
        return config.patience is not None and self.evaluations_since_best >= config.patience

    def is_due(self, every: int, config: TrainConfig) -> bool:
        """Whether something that happens every so many steps, and at the last one, happens at this step."""
        return self.step % every == 0 or self.step == config.steps


def _is(value: object, kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return isinstance(value, kind if origin in (None, UnionType) else origin)


def step_seed(seed: int, step: int) -> int:
    """The seed of all that is random within a step (dropout), so that a resumed run draws the same."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step}".encode(), digest_size=8).digest(), "big") >> 1
