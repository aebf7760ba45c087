"""Converts images of any type (path, bytes, Pillow image, array, tensor) to RGB pixels."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from embedding_expansion.data.decoding import decode, to_rgb
from embedding_expansion.data.resizing import Pixels
from embedding_expansion.errors import DataError, InvalidInput, InvalidType

if TYPE_CHECKING:
    import torch

    ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any] | torch.Tensor"


def one_or_many(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """Returns an iterable of images. A single image becomes a list.

    Raises:
        InvalidType: `images` is neither an image nor an iterable.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return [images]  # type: ignore[list-item]
    if (isinstance(images, np.ndarray) or _is_tensor(images)) and images.ndim < 4:  # type: ignore[union-attr]
        return [images]  # type: ignore[list-item]
    if not isinstance(images, Iterable):
        raise InvalidType(f"images is a {type(images).__name__}; {_WANTED}, or several of them")
    return images


_WANTED = "pass a path, bytes, a Pillow image, an array (h, w, 3) or a tensor (3, h, w)"


def as_pixels(image: ImageLike, max_pixels: int | None = None, *, least: int | None = None) -> Pixels:
    """Converts an image to RGB pixels, uint8, (h, w, 3).

    Args:
        image: a path or the bytes of an image file (see `decoding.FORMATS`); a Pillow image; a uint8 array, (h, w, 3)
            or grey (h, w); a tensor, (3, h, w) or grey (1, h, w), uint8 or floating with values in 0..1.
        max_pixels: the maximum number of pixels to decode.
        least: how many pixels of the short side are needed; only files and bytes are decoded at a reduced size, as an
            opened Pillow image would itself change. None for all.

    Raises:
        DataError: the image cannot be decoded.
        InvalidInput, InvalidType: `image` has another shape, dtype or type.
    """
    if isinstance(image, str | os.PathLike):
        return decode(Path(image), max_pixels, least=least)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image), max_pixels, least=least)
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image, max_pixels)
        except Exception as error:  # Pillow decodes lazily, so the file may turn out to be broken
            raise DataError(f"the Pillow image cannot be decoded ({error}); replace or remove it") from error
    if isinstance(image, np.ndarray):
        return _of_array(image)
    if _is_tensor(image):
        return _of_array(_of_tensor(image))
    raise InvalidType(f"it is a {type(image).__name__}; {_WANTED}")


def _of_array(image: npt.NDArray[Any]) -> Pixels:
    if image.dtype != np.uint8:
        raise InvalidType(f"it is an array of {image.dtype}; pass uint8, with values from 0 to 255")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise InvalidInput(f"it is an array of shape {image.shape}; pass (h, w, 3), or (h, w) for grey")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _of_tensor(image: torch.Tensor) -> npt.NDArray[Any]:
    values = image.detach().cpu()
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise InvalidInput(f"it is a tensor of shape {tuple(image.shape)}; pass (3, h, w), or (1, h, w) for grey")
    if values.is_floating_point():
        scaled = values.double().numpy()
        if not ((scaled >= 0) & (scaled <= 1)).all():
            raise InvalidInput("it is a floating tensor with values outside 0..1; divide by 255, or pass uint8")
        return np.round(scaled * 255).astype(np.uint8).transpose(1, 2, 0)
    array: npt.NDArray[Any] = values.numpy().transpose(1, 2, 0)
    return array


def _is_tensor(image: object) -> bool:
    """Whether it is a torch tensor. This does not import torch: if torch is not imported, there are no tensors."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)  # another thread may be importing torch at this moment
    return tensor is not None and isinstance(image, tensor)
