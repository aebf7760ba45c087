"""Checkpoints: the state of a run in one file of `model.weights`.

The tensors are those of the model, of the loss (learnt parameters) and of the optimiser. All other state is JSON.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embedding_expansion.errors import RunError
from embedding_expansion.model.weights import load_tensors, read_tensors, save_tensors

_NAME = "step-{:08d}.safetensors"


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint: its tensors and the JSON state.

    Raises:
        RunError: the file is missing or broken, or its checksum is wrong.
    """
    return load_tensors(path, _instead(path))


def accept(path: Path) -> bool:
    """Corrects the checksum of a checkpoint; returns whether it was wrong.

    Raises:
        RunError: the file is missing or broken.
    """
    tensors, about, is_whole = read_tensors(path, _instead(path))
    if not is_whole:
        save_tensors(path, tensors, about)
    return not is_whole


def _instead(path: Path) -> str:
    """What to do if a checkpoint cannot be restored: use an earlier one, or start a new run."""
    step = _step_of(path)
    earlier = [] if step is None else [saved for saved in saved_steps(path.parent) if saved < step]
    return f"remove it to resume after step {earlier[-1]}" if earlier else "start a new run"


def collect(
    model: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> dict[str, Tensor]:
    """Collects all tensors that training changes, under flat names. `average` is the average of the model's weights."""
    tensors = _of_modules(model, loss, average)
    for index, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entries.items()}
    return tensors


def restore(
    path: Path,
    tensors: dict[str, Tensor],
    model: nn.Module,
    loss: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None = None,
) -> None:
    """Restores the tensors of `collect`.

    Raises:
        RunError: the tensors, read from `path`, do not fit this model, loss and optimiser.
    """
    _check_fit(path, tensors, _of_modules(model, loss, average), _of_adam(optimizer))
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "loss": {}, "optimizer": {}, "average": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    model.load_state_dict(parts["model"])
    loss.load_state_dict(parts["loss"])
    if average is not None:
        average.load_state_dict(parts["average"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _of_modules(model: nn.Module, loss: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    modules = {"model": model, "loss": loss} | ({} if average is None else {"average": average})
    return {
        f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()
    }


def _of_adam(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of Adam and AdamW by the names of `collect`, as tensors of the expected shapes."""
    count = torch.zeros(())
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"optimizer.{index}.{name}": like
        for index, parameter in enumerate(parameters)
        for name, like in (("step", count), ("exp_avg", parameter), ("exp_avg_sq", parameter))
    }


def _check_fit(
    path: Path, tensors: dict[str, Tensor], modules: dict[str, Tensor], optimizer: dict[str, Tensor]
) -> None:
    """Checks names, shapes and types. The optimiser has no state for a parameter without a gradient so far."""
    known = modules | optimizer
    odd = sorted(modules.keys() - tensors.keys()) + sorted(tensors.keys() - known.keys())
    odd += sorted(
        name
        for name in known.keys() & tensors.keys()
        if (known[name].shape, known[name].dtype) != (tensors[name].shape, tensors[name].dtype)
    )
    if odd:
        raise RunError(
            f"{path} does not fit config.yaml: {len(odd)} tensors are missing, unknown or of another shape, the first "
            f"is {odd[0]!r}; restore the file, or start a new run"
        )


def checkpoint_path(folder: Path, step: int) -> Path:
    """The path of the checkpoint of a step."""
    return folder / _NAME.format(step)


def saved_steps(folder: Path) -> list[int]:
    """The steps with a checkpoint, in ascending order."""
    found = (_step_of(path) for path in folder.glob("step-*.safetensors"))
    return sorted(step for step in found if step is not None)


def _step_of(path: Path) -> int | None:
    """The step of a checkpoint, from its file name; None for other files."""
    match = re.fullmatch(r"step-(\d{8,})\.safetensors", path.name)
    return int(match[1]) if match else None


def discard(folder: Path, step: int) -> None:
    """Removes the checkpoint of a step, if it exists."""
    checkpoint_path(folder, step).unlink(missing_ok=True)


def prune(folder: Path, keep: set[int]) -> None:
    """Removes partial files and all checkpoints except for the newest two and those of the steps in `keep`.

    It keeps two, because only the step after a checkpoint shows whether its weights are finite.
    """
    steps = saved_steps(folder)
    for step in set(steps[:-2]) - keep:
        discard(folder, step)
    for path in folder.glob("*.partial-*"):
        path.unlink()
