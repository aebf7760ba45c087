"""Transforms of decoded images to the square that a model takes: uint8 in, uint8 out. The model normalises.

| name          | training                                                        | test                              |
|---------------|-----------------------------------------------------------------|-----------------------------------|
| `none`        | resized to the square                                           | the same                          |
| `crop`        | random crop of 50 to 100 % of the area                          | resized to the square             |
| `crop_flip`   | random crop of 20 to 100 % of the area, mirrored half the time  | short side to 256/224, centre crop|
| `center_crop` | short side to 256/224, a square of it at random, mirrored half  | short side to 256/224, centre crop|
|               | the time                                                        |                                   |
| `paper`       | resized to the square, or, half the time, to 255/227 of it and  | resized to the square             |
|               | cropped at random; mirrored half the time                       |                                   |

Resizing to the square does not keep the aspect ratio. `crop_flip` is the default for photographs. Use `paper` for
images that are already cropped to their object, since a centre crop would cut the object, and `center_crop` for those
with the object in the middle. Use `crop` for characters, because a mirrored letter is another letter. Every resize is
bilinear with antialiasing.

A model must be measured on the pixels that it is used with. Therefore the test transforms give exactly the pixels of
`Preprocessing`, on every machine. They use torchvision if it gives the same pixels, which is six to ten times as fast.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from embedding_expansion.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class ImageTransform:
    """Maps a uint8 image (c, h, w), or a stack of them, to (c, size, size).

    Attributes:
        size: the side of the square in pixels.
        is_random: whether it draws from torch's global generator. If not, a stack of images can be transformed at once.
        steps: the module that transforms the images.
        least: how many pixels of the short side of an image are decoded at least; None for all.
    """

    size: int
    is_random: bool
    steps: nn.Module
    least: int | None = None

    def __call__(self, image: Tensor) -> Tensor:
        """Transforms one image, or a stack of images if the transform is not random."""
        result: Tensor = self.steps(image)
        return result


def train_transform(size: int, name: str) -> ImageTransform:
    """The training transform of a name, see the table above.

    Args:
        size: the side of the square in pixels.
        name: one of `TRANSFORMS`.

    Raises:
        UnknownName: there is no such transform.
        InvalidInput: the size is below 1.
    """
    tested = test_transform(size, name)
    random = functools.partial(ImageTransform, size, True, least=tested.least)
    if name == "none":
        return tested
    if name == "crop":
        return random(v2.RandomResizedCrop(size, scale=(0.5, 1.0), antialias=True))
    if name == "crop_flip":
        crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True)
        return random(v2.Compose([crop, v2.RandomHorizontalFlip()]))
    if name == "center_crop":
        resize = v2.Resize(Preprocessing.of(size, name).short_side, antialias=True)
        return random(v2.Compose([resize, v2.RandomCrop(size), v2.RandomHorizontalFlip()]))
    larger = v2.Compose([_squash(round(size * 255 / 227)), v2.RandomCrop(size)])
    either = v2.RandomChoice([_squash(size), larger])
    return random(v2.Compose([either, v2.RandomHorizontalFlip()]))


def test_transform(size: int, name: str) -> ImageTransform:
    """The test transform of a name, see the table above. It is not random.

    Its pixels are exactly those of `Preprocessing.of(size, name)`. The arguments and errors are those of
    `train_transform`.
    """
    return transform_of(Preprocessing.of(size, name))


test_transform.__test__ = False  # type: ignore[attr-defined]  # its name would make pytest collect it


def transform_of(preprocessing: Preprocessing) -> ImageTransform:
    """The transform of tensors that gives exactly the pixels of a preprocessing."""
    module = _in_torch(preprocessing) if _torch_agrees() else _InNumPy(preprocessing)
    return ImageTransform(preprocessing.size, False, module, preprocessing.least)


def _squash(size: int) -> nn.Module:
    """Resizes to the square without keeping the aspect ratio; a square of this size is unchanged."""
    return v2.Resize((size, size), antialias=True)


def _in_torch(preprocessing: Preprocessing) -> nn.Module:
    if preprocessing.short_side is None:
        return _squash(preprocessing.size)
    return v2.Compose([v2.Resize(preprocessing.short_side, antialias=True), v2.CenterCrop(preprocessing.size)])


class _InNumPy(nn.Module):
    """Applies a preprocessing to one image (c, h, w) or a stack of images (n, c, h, w).

    Vectors, which are images of one float pixel, need no resizing.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            unchanged: Tensor = _in_torch(self.preprocessing)(images)
            return unchanged
        if images.ndim == 4:
            return torch.stack([self(image) for image in images])
        square = self.preprocessing.square(images.permute(1, 2, 0).numpy())
        return torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))


@functools.cache
def _torch_agrees() -> bool:
    """Whether torch resizes uint8 in whole numbers here, which depends on its version and on the processor."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 97, 64), dtype=np.uint8)
    image = torch.from_numpy(noise)
    each = [Preprocessing(size, short_side) for size, short_side in ((16, None), (120, None), (40, 46))]
    return all(torch.equal(_in_torch(one)(image), _InNumPy(one)(image)) for one in each)
