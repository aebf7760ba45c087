"""The content of environment.json: what a run depends on besides its configuration."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from embedding_expansion import __version__
from embedding_expansion.core import search
from embedding_expansion.runs.options import TrainConfig

_LIBRARIES = ("torch", "torchvision", "numpy", "scikit-learn", "safetensors", "pillow", "timm")


def environment(config: TrainConfig, command: list[str]) -> dict[str, Any]:
    """Versions, commit, machine, threads and the command of the run."""
    device = torch.device(config.device)
    return {
        "versions": {"python": platform.python_version(), "embedding-expansion": __version__}
        | {name: _version(name) for name in _LIBRARIES},
        "seed": config.seed,
        "commit": commit(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
        "search": search.describe(config.device),
        "threads": config.threads,
        "command": command,
        "executable": sys.executable,
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The git commit of this package, or None if it does not run from a checkout."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
