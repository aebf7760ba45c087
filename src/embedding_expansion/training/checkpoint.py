"""Checkpoints: tensors and the rest of a run's state in one safetensors file, written atomically, never unpickled.

The tensors are those of the model, of the loss (learnt parameters) and of the optimiser; the rest is JSON in the file's
metadata, so that both are replaced in one step. A file that ends in `.safetensors` is always whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from embedding_expansion.errors import RunError

_NAME = "step-{:08d}.safetensors"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, then puts it in place at once, so that nobody sees half a file."""
    partial = path.with_name(path.name + f".partial-{os.getpid()}")
    try:
        write(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors, and what there is to say about them as JSON in the metadata."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_atomically(path, lambda partial: save_file(whole, partial, metadata={"about": json.dumps(about)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
            return tensors, json.loads((stored.metadata() or {})["about"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise RunError(f"{path} cannot be read as a checkpoint ({error}); restore it, or start a new run") from error


def collect(model: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor that training changes, under a flat name."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"loss.{name}": tensor for name, tensor in loss.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entries.items()}
    return tensors


def restore(tensors: dict[str, Tensor], model: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts back what `collect` gathered."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "loss": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    loss.load_state_dict(parts["loss"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / _NAME.format(step)


def last_step(folder: Path) -> int | None:
    """The step of the newest checkpoint, or None where there is none."""
    steps = [int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.safetensors")]
    return max(steps, default=None)


def prune(folder: Path, keep: set[int]) -> None:
    """Removes all checkpoints but those of the steps in `keep`, and what a kill left half-written."""
    kept = {checkpoint_path(folder, step) for step in keep}
    for path in folder.glob("step-*.safetensors"):
        if path not in kept:
            path.unlink()
    for path in folder.glob("*.partial-*"):
        path.unlink()
