"""Tensors in a safetensors file with a checksum, written atomically and never unpickled.

Further information is JSON in the metadata of the file, so that both are replaced in one step. The checksum over the
whole content detects files that were changed or damaged. The same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from embedding_expansion.errors import RunError
from embedding_expansion.files import write_atomically


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors, and `about` as JSON in the metadata."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    # A single key, because safetensors writes several keys in random order.
    metadata = {"about": json.dumps({"about": about, "checksum": _checksum(whole, about)})}
    content = save(whole, metadata)  # save_file writes a temporary file itself, which a kill leaves behind
    write_atomically(path, lambda partial: partial.write_bytes(content))


def load_tensors(path: Path, instead: str = "start a new run") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors and `about` from a file of `save_tensors`.

    Args:
        path: the file.
        instead: the end of the error sentence: what to do if the file cannot be restored.

    Raises:
        RunError: the file is missing or broken, or its checksum is wrong.
    """
    tensors, about, is_whole = read_tensors(path, instead)
    if not is_whole:
        raise RunError(
            f"{path} has changed since it was written, because its checksum is wrong; restore it, or {instead}"
        )
    return tensors, about


def read_tensors(path: Path, instead: str) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Reads a file of `save_tensors` that may have changed. The last value is whether its checksum is correct.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
            metadata = stored.metadata() or {}
        about = json.loads(metadata["about"])
        if "tensors" in metadata:  # older versions stored the number of tensors instead of a checksum
            is_whole = metadata["tensors"] == str(len(tensors))
        else:
            about, checksum = about["about"], about["checksum"]
            is_whole = checksum == _checksum(tensors, about)
        if not isinstance(about, dict):
            raise TypeError("its metadata is not a JSON object")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read as a checkpoint ({error}); restore it, or {instead}") from error
    return tensors, about, is_whole


def _checksum(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """The checksum of all tensors with their names, types and shapes, and of `about`."""
    found = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
