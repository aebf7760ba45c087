"""The run folder: its files, and how they are written so that a kill at any moment leaves it intact.

config.yaml         the resolved configuration, for --config
environment.json    versions, seed, commit, machine and command line, also of every resumption
log.jsonl           one line per logged step; step 0 has the metrics before training
metrics.json        the final metrics
model.safetensors   the final weights
checkpoints/        step-00000050.safetensors, ...: the last two and the best one
report.html         the report with images
tensorboard/        event files
fingerprint.json    the images and classes of each split and the options, when the run was started
lock                the process that is writing or wrote last

config.yaml is written first, so a folder without it has no content yet.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from embedding_expansion.errors import RunError
from embedding_expansion.files import read_json, write_atomically, write_json
from embedding_expansion.runs import config as configuration
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_lock import LOCK, RunLock

# Entries that report.print_result shows and that must therefore exist.
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
_CONTINUE_WITHOUT = "remove it to continue without it"


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
        self.fingerprint = path / "fingerprint.json"
        self._lock: RunLock | None = None

    def create(self, config: TrainConfig) -> None:
        """Creates the folder with config.yaml, and holds its lock until `release`.

        Raises:
            RunError: the folder is not empty, cannot be created, or is being created by another process.
        """
        path = self.path
        taken = RunError(f"{path} exists and is not empty; pass another --out, or --resume {path} to continue it")
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
            raise RunError(f"{path} cannot be created ({error.strerror}); pass another --out") from error
        text = configuration.dump(config)
        write_atomically(path / "config.yaml", lambda partial: partial.write_text(text, encoding="utf-8"))

    def acquire(self) -> None:
        """Holds the lock until `release`, and removes partial files of killed processes.

        Raises:
            RunError: another process is writing to the folder, or it is not writable.
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
        """Releases the lock, if it is held."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _is_bare(self) -> bool:
        """Whether the folder contains only what is created before config.yaml."""
        first = re.compile(rf"{LOCK}|{self.checkpoints.name}|config\.yaml\.partial-\d+")
        return all(first.fullmatch(path.name) for path in self.path.iterdir()) and not (
            self.checkpoints.exists() and any(self.checkpoints.iterdir())
        )

    def read_config(self) -> TrainConfig:
        """Reads config.yaml.

        Raises:
            RunError: there is no such file.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no run folder {self.path}; pass a folder made by embex train")
        if (self.path / LOCK).exists() and self._is_bare():
            raise RunError(
                f"{self.path} is empty, because the run was stopped before its config.yaml was written; start the run "
                f"again, if you like with --out {self.path}"
            )
        return configuration.load(self.path / "config.yaml")

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Writes environment.json."""
        write_json(self._environment, environment)

    def read_environment(self) -> dict[str, Any]:
        """Reads environment.json; empty if it is missing.

        Raises:
            RunError: the file is broken.
        """
        return read_json(self._environment, _CONTINUE_WITHOUT) if self._environment.exists() else {}

    def note_resumption(self, step: int, environment: dict[str, Any], changes: list[str]) -> None:
        """Records in environment.json after which step the run was resumed, with which environment and changes.

        Raises:
            RunError: the file is broken.
        """
        content = self.read_environment() or environment
        earlier = content.get("resumed", [])
        if not isinstance(earlier, list):
            raise RunError(f"{self._environment} has an entry resumed that is not a list; {_CONTINUE_WITHOUT}")
        entry = {"after_step": step, "changed": changes} | environment
        write_json(self._environment, content | {"resumed": [*earlier, entry]})

    def remove_metrics(self) -> None:
        """Removes metrics.json, so that a complete run counts as running again."""
        self._metrics.unlink(missing_ok=True)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes metrics.json, which marks the run as complete."""
        write_json(self._metrics, metrics)

    def read_metrics(self) -> dict[str, Any] | None:
        """Reads the final metrics; None if the run is not complete.

        Raises:
            RunError: the file is broken.
        """
        if not self._metrics.exists():
            return None
        remedy = f"remove it and evaluate again with embex train --resume {self.path}"
        content = read_json(self._metrics, remedy)
        held_out = {"held_out_classes": content.get("held_out_classes") or []}
        odd = [name for name, kind in _METRICS.items() if not _is((content | held_out).get(name), kind)]
        if odd:
            raise RunError(f"{self._metrics} lacks {', '.join(odd)}, or they have the wrong type; {remedy}")
        return content

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to log.jsonl.

        Raises:
            RunError: the line cannot be written, for example because the disk is full.
        """
        try:
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise RunError(
                f"{self._log} cannot be written ({error.strerror}); free some space, then run embex train --resume "
                f"{self.path}"
            ) from error

    def read_log(self) -> list[dict[str, Any]]:
        """Reads the complete lines of log.jsonl.

        Raises:
            RunError: a line is not the entry of a step.
        """
        if not self._log.exists():
            return []
        lines = self._log.read_bytes().split(b"\n")[:-1]  # the last line may be incomplete
        return [self._entry(number, line) for number, line in enumerate(lines, start=1)]

    def _entry(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or not _is(entry.get("step"), int):
            raise RunError(f"line {number} of {self._log} is not the entry of a step; remove it to continue without it")
        return entry

    def has_warned(self, words: str) -> bool:
        """Whether log.jsonl holds a warning with these words."""
        return any(words in str(entry.get("warning", "")) for entry in self.read_log())

    def cut_log(self, step: int) -> None:
        """Removes entries after a step, and an incomplete last line."""
        text = "".join(json.dumps(entry) + "\n" for entry in self.read_log() if entry["step"] <= step)
        write_atomically(self._log, lambda partial: partial.write_text(text, encoding="utf-8"))


def _is(value: object, kind: type) -> bool:
    """Whether a JSON value has a type. Lists must contain strings, and numbers must be finite and not huge."""
    if isinstance(value, list):
        return kind is list and all(isinstance(entry, str) for entry in value)
    return isinstance(value, kind) and not (isinstance(value, int | float) and not abs(value) < 2**63)


def default_path(config: TrainConfig) -> str:
    """runs/DATA-LOSS-TIME, with a number appended if it exists."""
    expansion = "" if config.expansion.is_plain else "ee-"
    expansion = f"{config.method['name']}-" if config.has_method else expansion
    name = f"{Path(config.data.name).stem}-{expansion}{config.loss['name']}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [Path("runs") / name, *(Path("runs") / f"{name}-{number}" for number in range(2, 100))]
    return str(next((path for path in candidates if not path.exists()), candidates[0]))
