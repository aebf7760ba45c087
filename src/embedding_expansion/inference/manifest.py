"""The folder of an exported model, and `model.json`, which describes its input and output.

model.onnx | model.pt2 | model.safetensors   the model, in the `format` of model.json
config.yaml                                  only with model.safetensors: how to build the network
text.safetensors                             optional: the text tower of a pair of towers
model.json                                   input, preprocessing, embedding, training, metrics, versions
README.md                                    the model card: the same content as readable text
thresholds.json                              optional: the calibrated thresholds of similarity

This module does not import torch, so that programs can run an ONNX model without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.checks import whole_number
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import RunError
from embedding_expansion.files import read_json

#: The formats of exports, and the file of the model in each.
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}

#: The text tower of a pair, beside model.safetensors.
TEXT = "text.safetensors"
MANIFEST, CARD = "model.json", "README.md"

#: The version of model.json. It increases when old readers can no longer read new files.
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The content of model.json.

    Attributes:
        preprocessing: the preprocessing of images.
        dimensions: the number of dimensions of the embedding.
        content: the whole content of model.json.
    """

    preprocessing: Preprocessing
    dimensions: int
    content: dict[str, Any]

    @property
    def format(self) -> str:
        """The format of the model: a key of `FILES`, or "run"."""
        return str(self.content["format"])

    def entry(self, *keys: str) -> str | None:
        """An optional entry of model.json as text, such as `entry("training", "data")`; None if it is missing."""
        return entry_of(self.content, *keys)


def entry_of(content: dict[str, Any], *keys: str) -> str | None:
    """An optional entry of nested JSON objects as text; None if it is missing."""
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else str(found)


def read_manifest(folder: Path) -> Manifest:
    """Reads model.json.

    Raises:
        RunError: the file is missing or broken, or was written by a later version of this package.
    """
    path = folder / MANIFEST
    remedy = "export the run again with embex export"
    content = read_json(path, remedy)
    version = content.get("version")
    if version != VERSION:
        raise RunError(f"{path} has version {version!r}, but this package reads version {VERSION}; {remedy}")
    if not isinstance(content.get("format"), str) or content["format"] not in FILES:
        raise RunError(
            f"{path} has the unknown format {content.get('format')!r}, not one of {', '.join(FILES)}; {remedy}"
        )
    size = _positive(content, "preprocessing", "size", path)
    short_side = (content["preprocessing"]).get("short_side")
    if short_side is not None and _positive(content, "preprocessing", "short_side", path) < size:
        raise RunError(f"{path} crops a square of {size} pixels from a shorter side of {short_side} pixels; {remedy}")
    return Manifest(Preprocessing(size, short_side), _positive(content, "embedding", "dimensions", path), content)


def _positive(content: dict[str, Any], section: str, name: str, path: Path) -> int:
    entries = content.get(section)
    value = entries.get(name) if isinstance(entries, dict) else None
    number = whole_number(value)
    if number is None or not 0 < number <= 1 << 16:
        raise RunError(
            f"{path} has {section}.{name} {value!r}, which is not a whole number from 1 to 65,536; export the run again"
        )
    return number
