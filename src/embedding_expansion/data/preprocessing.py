"""From decoded pixels to the square that a model takes, as data: what an exported model says of its input.

`Preprocessing.of(size, name)` gives the pixels of `transforms.test_transform(size, name)`, to the last bit, without
torch. It can be written as JSON, and read by programs that know nothing of this package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.resizing import Pixels, resize
from embedding_expansion.errors import InvalidInput, UnknownName

#: The names of transforms of images, which `transforms` describes.
TRANSFORMS = ("none", "crop", "crop_flip", "paper")

#: How many times longer one side may be than the other: of a thread of pixels a resize would make a flood.
THINNEST = 100


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an RGB image (h, w, 3) before a model sees it.

    Attributes:
        size: side of the square, in pixels.
        short_side: the length that the short side is resized to before the square is cut from the middle; None
            where the image is squashed to the square without regard to its aspect ratio.
    """

    size: int
    short_side: int | None = None

    @classmethod
    def of(cls, size: int, name: str) -> Preprocessing:
        """That of the test transform with this size and name.

        Raises:
            UnknownName: there is no such transform.
            InvalidInput: the size is not positive.
        """
        if name not in TRANSFORMS:
            raise UnknownName("transform", name, TRANSFORMS)
        if size < 1:
            raise InvalidInput(f"images of side {size} were asked for; the size must be 1 or more")
        return cls(size, round(size * 256 / 224) if name == "crop_flip" else None)

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.uint8]:
        """Transforms one image, (h, w, 3) to (size, size, 3).

        Raises:
            InvalidInput: the image is thinner than `THINNEST` allows.
        """
        check_shape(*pixels.shape[:2])
        return self.square(pixels)

    def square(self, pixels: Pixels) -> npt.NDArray[np.uint8]:
        """The same for any shape, and any number of channels: (h, w, c) to (size, size, c)."""
        if self.short_side is None:
            return resize(pixels, self.size, self.size)
        height, width = pixels.shape[:2]
        short = min(height, width)
        larger = resize(pixels, int(self.short_side * height / short), int(self.short_side * width / short))
        top, left = (round((side - self.size) / 2) for side in larger.shape[:2])
        return larger[top : top + self.size, left : left + self.size]


def check_shape(height: int, width: int) -> None:
    """Refuses a shape that no square is made of; it needs no pixels, so that nothing has to be decoded for it.

    Raises:
        InvalidInput: one side is more than `THINNEST` times as long as the other.
    """
    if max(height, width) > THINNEST * min(height, width):
        raise InvalidInput(
            f"it is {width} pixels wide and {height} high; its sides may differ by a factor of {THINNEST} at most"
        )
