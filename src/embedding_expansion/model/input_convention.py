"""The images that weights were trained on: mean, standard deviation, size and crop, from where they are written down.

A weights file can say it itself, in the metadata of its header, or in a JSON file beside it:

weights.safetensors   metadata `mean`, `std`, `image_size`, `crop_pct`, each as JSON: "[0.5, 0.5, 0.5]", "224"
weights.json          {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "image_size": 224, "crop_pct": 0.875}
config.json           as timm writes it to the Hugging Face hub: {"pretrained_cfg": {"mean": ..., "input_size": ...}}

Both JSON files may have either form. An entry that is missing in one place is looked up in the next.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from safetensors import SafetensorError, safe_open

from embedding_expansion.checks import whole_number
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import DataError

#: The share of the short side that the cut from the middle keeps, or "squash" if the whole image is resized to the
#: square without keeping its aspect ratio.
Crop: TypeAlias = float | Literal["squash"]


@dataclass(frozen=True)
class InputConvention:
    """What is known about the images that weights were trained on. None is what is not known.

    Attributes:
        mean: of the pixels in 0..1, one per channel.
        std: their standard deviation.
        image_size: the side of the square images in pixels.
        crop: how the square is made of an image.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    crop: Crop | None = None

    def completed_by(self, other: InputConvention) -> InputConvention:
        """Takes from another convention what this one does not know."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return InputConvention(
            **{name: getattr(other, name) if value is None else value for name, value in own.items()}
        )


def preprocessing_of(size: int, crop: Crop | None) -> Preprocessing:
    """The preprocessing of images of a size: resizes the short side and cuts the square from the middle, or squashes.

    As in timm, the length of the short side is rounded down. A crop above 1, for which timm pads the image, counts as
    1. If the crop is not known, it is that of the transform "crop_flip".
    """
    if crop is None:
        return Preprocessing.of(size, "crop_flip")
    return Preprocessing(size, None if crop == "squash" else int(size / min(crop, 1) + 1e-6))


def read_convention(weights: Path) -> InputConvention:
    """What a weights file, or a JSON file beside it, says about its images.

    Args:
        weights: a readable safetensors file.

    Raises:
        DataError: an entry is there, but is not what it should be.
    """
    found = _of_metadata(weights)
    for beside in (weights.with_suffix(".json"), weights.with_name("config.json")):
        if beside.is_file():
            found = found.completed_by(_of_json(beside))
    return found


def convention_of_timm(entries: Mapping[str, Any], place: str = "timm's pretrained_cfg") -> InputConvention:
    """Reads the entries of a `pretrained_cfg` of timm, or of one of the forms above.

    Args:
        entries: the entries.
        place: where they come from, for errors.

    Raises:
        DataError: an entry is not what it should be.
    """
    size, crop = entries.get("image_size"), entries.get("crop_pct")
    if size is None and entries.get("input_size") is not None:
        shape = entries["input_size"]
        size = shape[-1] if isinstance(shape, list | tuple) and len(shape) == 3 else shape
    return InputConvention(
        mean=_numbers("mean", entries.get("mean"), place),
        std=_numbers("std", entries.get("std"), place),
        image_size=None if size is None else _size(size, place),
        crop="squash" if entries.get("crop_mode") == "squash" else None if crop is None else _share(crop, place),
    )


def _of_metadata(weights: Path) -> InputConvention:
    try:
        with safe_open(weights, framework="pt") as stored:
            metadata = stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{weights} cannot be read as safetensors ({error})") from error
    entries = {}
    for name in ("mean", "std", "image_size", "crop_pct"):
        if name in metadata:
            try:
                entries[name] = json.loads(metadata[name])
            except (ValueError, RecursionError) as error:
                raise _broken(f"the metadata of {weights}", name, metadata[name]) from error
    return convention_of_timm(entries, f"the metadata of {weights}")


def _of_json(path: Path) -> InputConvention:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, which lies beside the weights, is not JSON ({error}); correct or remove it"
        ) from error
    inner = content.get("pretrained_cfg", content) if isinstance(content, dict) else None
    if not isinstance(inner, dict):
        raise DataError(f"{path}, which lies beside the weights, is not a JSON object; correct or remove it")
    return convention_of_timm(inner, str(path))


def _numbers(name: str, value: Any, place: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value or not all(_is_number(entry) for entry in value):
        raise _broken(place, name, value)
    if name == "std" and min(value) <= 0:
        raise _broken(place, name, value)
    return tuple(float(entry) for entry in value)


def _size(value: Any, place: str) -> int:
    number = whole_number(value)
    if number is None or not 0 < number <= 4096:
        raise _broken(place, "image_size", value)
    return number


def _share(value: Any, place: str) -> float:
    if not _is_number(value) or not 0.1 <= value <= 2:
        raise _broken(place, "crop_pct", value)
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_WANTED = {
    "mean": "a JSON list of numbers, one per channel",
    "std": "a JSON list of numbers above 0, one per channel",
    "image_size": "a whole number of pixels from 1 to 4,096",
    "crop_pct": "a number from 0.1 to 2",
}


def _broken(place: str, name: str, value: Any) -> DataError:
    return DataError(f"{place} says that {name} is {str(value)[:60]!r}, but it must be {_WANTED[name]}; correct it")
