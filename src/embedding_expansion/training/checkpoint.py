"""Checkpoints: tensors and the rest of a run's state in one safetensors file, written atomically, never unpickled.

The tensors are those of the model, of the loss (learnt parameters) and of the optimiser; the rest is JSON in the file's
metadata, so that both are replaced in one step. A file that ends in `.safetensors` is always whole, and a checksum over
all that it holds tells when a disk has changed a bit of it. The same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from embedding_expansion.errors import RunError
from embedding_expansion.files import write_atomically

_NAME = "step-{:08d}.safetensors"


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors, and what there is to say about them as JSON in the metadata."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    # One key, because safetensors writes several in random order.
    metadata = {"about": json.dumps({"about": about, "checksum": _checksum(whole, about)})}
    content = save(whole, metadata)  # save_file would put a file of its own beside it, which a kill would leave there
    write_atomically(path, lambda partial: partial.write_bytes(content))


def load_tensors(path: Path, *, changed: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote.

    Args:
        path: of the file.
        changed: take what the file holds though it is not what was written, as far as it can be read.

    Raises:
        RunError: the file is missing, broken, or not what was written.
    """
    tensors, about, is_whole = _read(path)
    if not (is_whole or changed):
        raise RunError(f"{path} has changed since it was written: its checksum differs; restore it, {_instead(path)}")
    return tensors, about


def is_unchanged(path: Path) -> bool:
    """Whether a file of `save_tensors` holds what was written.

    Raises:
        RunError: it is missing or broken.
    """
    return _read(path)[2]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
            metadata = stored.metadata() or {}
        about = json.loads(metadata["about"])
        if "tensors" in metadata:  # of a version that kept no checksum, but how many tensors there are
            is_whole = metadata["tensors"] == str(len(tensors))
        else:
            about, checksum = about["about"], about["checksum"]
            is_whole = checksum == _checksum(tensors, about)
        if not isinstance(about, dict):
            raise TypeError("its metadata do not say what it holds")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read as a checkpoint ({error}); restore it, {_instead(path)}") from error
    return tensors, about, is_whole


def _instead(path: Path) -> str:
    """What is left where a file cannot be had back: an earlier checkpoint, or a new run."""
    step = _step_of(path)
    earlier = [] if step is None else [saved for saved in saved_steps(path.parent) if saved < step]
    return f"or remove it to go on after step {earlier[-1]}" if earlier else "or start a new run"


def _checksum(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Of all tensors with their names, types and shapes, and of what is said about them."""
    found = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def collect(
    model: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> dict[str, Tensor]:
    """Every tensor that training changes, under a flat name; `average` is that of the model's weights."""
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
    """Puts back what `collect` gathered.

    Raises:
        RunError: the tensors, which came from `path`, are not those of this model, loss and optimiser.
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
    """What Adam and AdamW keep, by the names of `collect`: tensors of the shapes that its own will have."""
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
    """All tensors of the modules must be there; a parameter that no step has used has none of the optimiser's."""
    known = modules | optimizer
    odd = sorted(modules.keys() - tensors.keys()) + sorted(tensors.keys() - known.keys())
    odd += sorted(
        name
        for name in known.keys() & tensors.keys()
        if (known[name].shape, known[name].dtype) != (tensors[name].shape, tensors[name].dtype)
    )
    if odd:
        raise RunError(
            f"{path} does not fit config.yaml: {len(odd)} tensors are missing, foreign or of another shape, the first "
            f"is {odd[0]!r}; restore the file that the run wrote, or start a new run"
        )


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / _NAME.format(step)


def saved_steps(folder: Path) -> list[int]:
    """The steps of which there is a checkpoint, ascending."""
    found = (_step_of(path) for path in folder.glob("step-*.safetensors"))
    return sorted(step for step in found if step is not None)


def _step_of(path: Path) -> int | None:
    """The step in the name of a checkpoint; None of any other file."""
    match = re.fullmatch(r"step-(\d{8,})\.safetensors", path.name)
    return int(match[1]) if match else None


def discard(folder: Path, step: int) -> None:
    """Removes the checkpoint of a step, where there is one."""
    checkpoint_path(folder, step).unlink(missing_ok=True)


def prune(folder: Path, keep: set[int]) -> None:
    """Removes all checkpoints but the newest two and those of the steps in `keep`, and what a kill left half-written.

    Two, because only the step after a checkpoint shows whether its weights are of any use.
    """
    steps = saved_steps(folder)
    for step in set(steps[:-2]) - keep:
        discard(folder, step)
    for path in folder.glob("*.partial-*"):
        path.unlink()
