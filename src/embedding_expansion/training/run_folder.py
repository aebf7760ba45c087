"""The folder of a run: what it holds, and how it is written so that a kill at any moment leaves it whole.

config.yaml         the resolved configuration; --config reads it back
environment.json    versions, seed, commit, machine, command line; likewise for every time that the run was resumed
log.jsonl           one line per logged step, step 0 being the measures before training
metrics.json        the final measures
model.safetensors   the weights that they were measured with
checkpoints/        step-00000050.safetensors, ...: the last two and the best one
report.html         all of it to look at, with images
tensorboard/        event files
fingerprint.json    what it was started with: the images and classes of each side, and the options
lock                who writes here, or did last

config.yaml is the first of them, so that a folder without it holds nothing yet.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from embedding_expansion.errors import RunError
from embedding_expansion.files import read_json, write_atomically, write_json
from embedding_expansion.training import config as configuration
from embedding_expansion.training.config import TrainConfig
from embedding_expansion.training.environment import environment
from embedding_expansion.training.fingerprint import Fingerprint
from embedding_expansion.training.run_lock import LOCK, RunLock

# What is shown of a complete run, and so has to be there: report.say_end.
_METRICS = {
    "recall_at_1": float,
    "nmi": float,
    "f1": float,
    "data": str,
    "selected_by": str,
    "selected_step": int,
    "images_per_second": float,
    "wall_seconds": float,
    "broken_images": list,
    "held_out_classes": list,
}
_GO_ON_WITHOUT = "remove it to go on without it"


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model.safetensors"
        self.report = path / "report.html"
        self.tensorboard = path / "tensorboard"
        self._log = path / "log.jsonl"
        self._metrics = path / "metrics.json"
        self._environment = path / "environment.json"
        self._fingerprint = path / "fingerprint.json"
        self._lock: RunLock | None = None

    def create(self, config: TrainConfig) -> None:
        """Makes the folder, with config.yaml in it, and holds its lock until `release`.

        Raises:
            RunError: the folder exists and is not empty, or cannot be made, or another process is making it.
        """
        path = self.path
        taken = RunError(f"{path} exists and is not empty; pass another --out, or --resume {path} to go on with it")
        if path.exists() and not path.is_dir():
            raise taken
        try:
            if path.exists() and any(path.iterdir()) and not (path / LOCK).exists():
                raise taken
            path.mkdir(parents=True, exist_ok=True)
            self._hold()
            if not self._is_bare():
                raise taken
            self._clear_left()
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"{path} cannot be made ({error.strerror}); pass another --out") from error
        text = configuration.dump(config)
        write_atomically(path / "config.yaml", lambda partial: partial.write_text(text, encoding="utf-8"))

    def take(self) -> None:
        """Holds the lock until `release`, and removes what a process that was killed has left half-written.

        Raises:
            RunError: another process writes here, or nobody can.
        """
        self._hold()
        self._clear_left()

    def _clear_left(self) -> None:
        for folder in (self.path, self.checkpoints):
            for left in folder.glob("*.partial-*"):
                if left.is_file():
                    left.unlink(missing_ok=True)

    def _hold(self) -> None:
        self._lock = RunLock(self.path).__enter__()

    def release(self) -> None:
        """Lets go of the lock, where it is held."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _is_bare(self) -> bool:
        """Whether nothing is there but what is made before config.yaml."""
        first = re.compile(rf"{LOCK}|{self.checkpoints.name}|config\.yaml\.partial-\d+")
        return all(first.fullmatch(path.name) for path in self.path.iterdir()) and not (
            self.checkpoints.exists() and any(self.checkpoints.iterdir())
        )

    def read_config(self) -> TrainConfig:
        """Reads config.yaml.

        Raises:
            RunError: there is none.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no run folder {self.path}; pass one that embex train has made")
        if (self.path / LOCK).exists() and self._is_bare():
            raise RunError(
                f"{self.path} was stopped before its config.yaml was written, and holds nothing; start it again with "
                f"the command that started it, which may have --out {self.path}"
            )
        return configuration.load(self.path / "config.yaml")

    def write_fingerprint(self, found: Fingerprint) -> None:
        """Writes fingerprint.json."""
        write_atomically(self._fingerprint, lambda partial: partial.write_text(found.as_text(), encoding="utf-8"))

    def read_fingerprint(self) -> Fingerprint | None:
        """What the run was started with; None where nobody has noted it.

        Raises:
            RunError: the file is broken.
        """
        if not self._fingerprint.exists():
            return None
        remedy = "restore it, or remove it and pass --resume_changed"
        return Fingerprint.from_json(read_json(self._fingerprint, remedy), self._fingerprint)

    def write_environment(self, config: TrainConfig, command: list[str]) -> None:
        """Writes environment.json."""
        write_json(self._environment, environment(config, command))

    def read_environment(self) -> dict[str, Any]:
        """What the run was made with; empty where environment.json is missing.

        Raises:
            RunError: the file is broken.
        """
        return read_json(self._environment, _GO_ON_WITHOUT) if self._environment.exists() else {}

    def note_resumption(self, step: int, config: TrainConfig, command: list[str], changes: list[str]) -> None:
        """Enters in environment.json after which step the run was resumed, with what, and what had changed.

        Raises:
            RunError: the file is broken.
        """
        content = self.read_environment() or environment(config, command)
        earlier = content.get("resumed", [])
        if not isinstance(earlier, list):
            raise RunError(f"{self._environment} holds no list of when the run was resumed; {_GO_ON_WITHOUT}")
        entry = {"after_step": step, "changed": changes} | environment(config, command)
        write_json(self._environment, content | {"resumed": [*earlier, entry]})

    def remove_metrics(self) -> None:
        """Makes a complete run one that goes on."""
        self._metrics.unlink(missing_ok=True)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes metrics.json, the sign that a run is complete."""
        write_json(self._metrics, metrics)

    def read_metrics(self) -> dict[str, Any] | None:
        """The final measures, or None where the run is not complete.

        Raises:
            RunError: the file is broken.
        """
        if not self._metrics.exists():
            return None
        remedy = f"remove it, and embex train --resume {self.path} measures again"
        content = read_json(self._metrics, remedy)
        held_out = {"held_out_classes": content.get("held_out_classes") or []}
        odd = [name for name, kind in _METRICS.items() if not _is((content | held_out).get(name), kind)]
        if odd:
            raise RunError(f"{self._metrics} lacks {', '.join(odd)}, or has them of another kind; {remedy}")
        return content

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to log.jsonl.

        Raises:
            RunError: it cannot be written, as on a full disk.
        """
        try:
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise RunError(
                f"{self._log} cannot be written ({error.strerror}); make room, then embex train --resume {self.path}"
            ) from error

    def read_log(self) -> list[dict[str, Any]]:
        """The complete lines of log.jsonl.

        Raises:
            RunError: one of them is no entry of a step.
        """
        if not self._log.exists():
            return []
        lines = self._log.read_bytes().split(b"\n")[:-1]  # behind the last line end: half a line
        return [self._entry(number, line) for number, line in enumerate(lines, start=1)]

    def _entry(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not _is(entry.get("step"), int):
            raise RunError(f"line {number} of {self._log} is no entry of a step; remove it to go on without it")
        return entry

    def cut_log(self, step: int) -> None:
        """Drops what was logged after a step, and half a line that a kill may have left."""
        text = "".join(json.dumps(entry) + "\n" for entry in self.read_log() if entry["step"] <= step)
        write_atomically(self._log, lambda partial: partial.write_text(text, encoding="utf-8"))


def _is(value: object, kind: type) -> bool:
    """Whether a value of a JSON file is of a kind; a list one of texts, a number one that can be reckoned with."""
    if isinstance(value, list):
        return kind is list and all(isinstance(entry, str) for entry in value)
    return isinstance(value, kind) and not (isinstance(value, int | float) and not abs(value) < 2**63)


def default_path(config: TrainConfig) -> str:
    """runs/DATA-LOSS-TIME, with a number behind it where that is taken."""
    expansion = "" if config.expansion.n == "none" else "ee-"
    name = f"{Path(config.data.name).stem}-{expansion}{config.loss['name']}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [Path("runs") / name, *(Path("runs") / f"{name}-{number}" for number in range(2, 100))]
    return str(next((path for path in candidates if not path.exists()), candidates[0]))
