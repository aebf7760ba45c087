"""Tensors in one safetensors file with a checksum, written atomically and never unpickled.

What there is to say about the tensors is JSON in the file's metadata, so that both are replaced in one step. A file
that ends in `.safetensors` is always whole, and a checksum over all that it holds tells when a disk has changed a bit
of it. The same content gives the same bytes.
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
    """Writes tensors, and what there is to say about them as JSON in the metadata."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    # One key, because safetensors writes several in random order.
    metadata = {"about": json.dumps({"about": about, "checksum": _checksum(whole, about)})}
    content = save(whole, metadata)  # save_file would put a file of its own beside it, which a kill would leave there
    write_atomically(path, lambda partial: partial.write_bytes(content))


def load_tensors(path: Path, instead: str = "start a new run") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads the tensors that `save_tensors` wrote, and what was said about them.

    Args:
        path: of the file.
        instead: what the user can do where the file cannot be restored, as the end of the error's sentence.

    Raises:
        RunError: the file is missing, broken, or not what was written.
    """
    tensors, about, is_whole = read_tensors(path, instead)
    if not is_whole:
        raise RunError(f"{path} has changed since it was written: its checksum differs; restore it, or {instead}")
    return tensors, about


def read_tensors(path: Path, instead: str) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """The same of a file that may have changed; the last value says whether its checksum is right.

    Raises:
        RunError: the file is missing or broken.
    """
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
        raise RunError(f"{path} cannot be read as a checkpoint ({error}); restore it, or {instead}") from error
    return tensors, about, is_whole


def _checksum(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """Of all tensors with their names, types and shapes, and of what is said about them."""
    found = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
