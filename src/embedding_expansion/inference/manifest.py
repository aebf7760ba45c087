"""The folder of an exported model: which files it holds, and `model.json`, which says what the model takes and gives.

model.onnx | model.pt2 | model.safetensors   the model; which one, `format` in model.json says
config.yaml                                  beside model.safetensors: how to build the network that the weights fit
model.json                                   input, preprocessing, embedding, training, measures, versions
README.md                                    the model card: the same for people
thresholds.json                              optional: the similarities from which images are of one class, or known

Nothing here needs torch: a program reads it that only runs the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import RunError
from embedding_expansion.files import read_json

#: The format of an export, and the file that holds the model.
FILES = {"onnx": "model.onnx", "torch": "model.pt2", "safetensors": "model.safetensors"}

MANIFEST, CARD = "model.json", "README.md"

#: What is counted up when a reader of the old files could no longer read the new ones.
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a model takes and gives.

    Attributes:
        preprocessing: what happens to an image before the model sees it.
        dimensions: of the embedding.
        content: all that is known of the model, as in model.json.
    """

    preprocessing: Preprocessing
    dimensions: int
    content: dict[str, Any]

    @property
    def format(self) -> str:
        """How the model is stored: a format of `FILES`, or "run"."""
        return str(self.content["format"])

    def told(self, *keys: str) -> str | None:
        """What model.json says somewhere, if it does: a reader needs none of it."""
        found: Any = self.content
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return None if found is None else str(found)


def read_manifest(folder: Path) -> Manifest:
    """Reads model.json.

    Raises:
        RunError: it is missing or broken, or was written by a later version of this package.
    """
    path = folder / MANIFEST
    remedy = "export the run again: embex export"
    content = read_json(path, remedy)
    version = content.get("version")
    if version != VERSION:
        raise RunError(f"{path} has the version {version!r}, but this package reads {VERSION}; {remedy}")
    if not isinstance(content.get("format"), str) or content["format"] not in FILES:
        raise RunError(f"{path} names the format {content.get('format')!r}; known are {', '.join(FILES)}; {remedy}")
    size = _positive(content, "preprocessing", "size", path)
    short_side = (content["preprocessing"]).get("short_side")
    if short_side is not None and _positive(content, "preprocessing", "short_side", path) < size:
        raise RunError(f"{path} cuts a square of {size} pixels from a side of {short_side}; {remedy}")
    return Manifest(Preprocessing(size, short_side), _positive(content, "embedding", "dimensions", path), content)


def _positive(content: dict[str, Any], section: str, name: str, path: Path) -> int:
    entries = content.get(section)
    value = entries.get(name) if isinstance(entries, dict) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 16:
        raise RunError(f"{path} has {section}.{name} {value!r}; it must be a whole number, 1 or more; export again")
    return value
