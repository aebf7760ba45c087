"""The folder of a run: what it holds, and how it is written so that a kill at any moment leaves it whole.

config.yaml         the resolved configuration; --config reads it back
environment.json    versions, seed, commit, machine, command line
log.jsonl           one line per logged step, step 0 being the measures before training
metrics.json        the final measures
model.safetensors   the weights that they were measured with
checkpoints/        step-00000050.safetensors, ...: the last one and the best one
tensorboard/        event files
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from embedding_expansion.errors import RunError
from embedding_expansion.training import config as configuration
from embedding_expansion.training.checkpoint import write_atomically, write_json
from embedding_expansion.training.config import TrainConfig


class RunFolder:
    """Reads and writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model.safetensors"
        self.tensorboard = path / "tensorboard"
        self._log = path / "log.jsonl"
        self._metrics = path / "metrics.json"

    def create(self) -> None:
        """Makes the folder.

        Raises:
            RunError: the folder exists and is not empty, or cannot be made.
        """
        path = self.path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(f"{path} exists and is not empty; pass another --out, or --resume {path} to go on with it")
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path} cannot be made ({error.strerror}); pass another --out") from error

    def write_config(self, config: TrainConfig) -> None:
        """Writes config.yaml."""
        text = configuration.dump(config)
        write_atomically(self.path / "config.yaml", lambda partial: partial.write_text(text, encoding="utf-8"))

    def read_config(self) -> TrainConfig:
        """Reads config.yaml.

        Raises:
            RunError: there is none.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no run folder {self.path}; pass one that embex train has made")
        return configuration.load(self.path / "config.yaml")

    def write_environment(self, config: TrainConfig, command: list[str]) -> None:
        """Writes environment.json."""
        write_json(self.path / "environment.json", environment(config, command))

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """Writes metrics.json, the sign that a run is complete."""
        write_json(self._metrics, metrics)

    def read_metrics(self) -> dict[str, Any] | None:
        """The final measures, or None where the run is not complete."""
        if not self._metrics.exists():
            return None
        content: dict[str, Any] = json.loads(self._metrics.read_text(encoding="utf-8"))
        return content

    def log(self, entry: dict[str, Any]) -> None:
        """Appends a line to log.jsonl."""
        with self._log.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The complete lines of log.jsonl."""
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="utf-8").split("\n")[:-1]  # behind the last line end: half a line
        return [json.loads(line) for line in lines]

    def cut_log(self, step: int) -> None:
        """Drops what was logged after a step, and half a line that a kill may have left."""
        text = "".join(json.dumps(entry) + "\n" for entry in self.read_log() if entry["step"] <= step)
        write_atomically(self._log, lambda partial: partial.write_text(text, encoding="utf-8"))


def default_path(config: TrainConfig) -> str:
    """runs/DATA-LOSS-TIME, with a number behind it where that is taken."""
    expansion = "" if config.expansion.n == "none" else "ee-"
    name = f"{Path(config.data.name).stem}-{expansion}{config.loss['name']}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = [Path("runs") / name, *(Path("runs") / f"{name}-{number}" for number in range(2, 100))]
    return str(next((path for path in candidates if not path.exists()), candidates[0]))


def environment(config: TrainConfig, command: list[str]) -> dict[str, Any]:
    """What a run depended on besides its configuration."""
    device = torch.device(config.device)
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
        "seed": config.seed,
        "commit": _commit(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
        "threads": config.threads,
        "command": command,
        "executable": sys.executable,
    }


_LIBRARIES = ("embedding-expansion", "torch", "torchvision", "numpy", "scikit-learn", "safetensors", "pillow", "timm")


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, or None where it was installed without one."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
