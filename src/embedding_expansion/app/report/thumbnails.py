"""Thumbnails of an image set as data URIs, which are part of the report itself."""

from __future__ import annotations

import torch
from torch import Tensor

from embedding_expansion.app.pages import pictures
from embedding_expansion.data.images import ImageSet
from embedding_expansion.errors import DataError

SIDE = 96  # longer side of a thumbnail, in pixels
EXACT = 40  # largest side that is stored as PNG, without loss


class Thumbnails:
    """The thumbnails of an image set, made on demand."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._made: dict[int, str] = {}

    def __getitem__(self, index: int) -> str:
        """The thumbnail as a data URI; empty if the image cannot be read."""
        if index not in self._made:
            try:
                self._made[index] = data_uri(self._images.load(index))
            except DataError:
                self._made[index] = ""
        return self._made[index]


def data_uri(pixels: Tensor) -> str:
    """A thumbnail of a uint8 image (c, h, w) as PNG or JPEG. Unless c is 1 or 3, only the first channel is shown."""
    shown = pixels if pixels.shape[0] in (1, 3) else pixels[:1]
    array = shown.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    return pictures.data_uri(array[..., 0] if array.shape[2] == 1 else array, SIDE, EXACT)
