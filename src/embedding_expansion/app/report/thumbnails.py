"""Small pictures of images, as data URIs that stand in the page itself."""

from __future__ import annotations

import torch
from torch import Tensor

from embedding_expansion.app.pages import pictures
from embedding_expansion.data.images import ImageSet
from embedding_expansion.errors import DataError

SIDE = 96  # the longer one, in pixels
EXACT = 40  # up to this side a PNG, which keeps every pixel


class Thumbnails:
    """The pictures of one set, each made when first asked for."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._made: dict[int, str] = {}

    def __getitem__(self, index: int) -> str:
        """A data URI; empty where the image cannot be read."""
        if index not in self._made:
            try:
                self._made[index] = data_uri(self._images.load(index))
            except DataError:
                self._made[index] = ""
        return self._made[index]


def data_uri(pixels: Tensor) -> str:
    """A uint8 image (c, h, w) as PNG up to 40 pixels, else as JPEG of 96; of other than 1 or 3 channels the first."""
    shown = pixels if pixels.shape[0] in (1, 3) else pixels[:1]
    array = shown.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    return pictures.data_uri(array[..., 0] if array.shape[2] == 1 else array, SIDE, EXACT)
