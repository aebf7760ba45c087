"""The preprocessing of an exported model: from decoded pixels to the square that it takes, without torch.

`Preprocessing.of(size, name)` gives exactly the pixels of `transforms.test_transform(size, name)`. It can be written as
JSON and read by programs that do not use this package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedding_expansion.checks import as_whole, check_name
from embedding_expansion.data.resizing import Pixels, resize
from embedding_expansion.errors import InvalidInput

#: The names of transforms of images, which `transforms` describes.
TRANSFORMS = ("none", "crop", "crop_flip", "center_crop", "paper")
#: Those that cut the square from the middle of a test image.
CENTER_CROPPED = ("crop_flip", "center_crop")

#: The short side of a reduced JPEG has at least `KEPT` times the pixels that the model takes, and at least `LEAST`,
#: which thumbnails need. A photograph of 12 megapixels has 375 at an eighth of its size; with 1.4 this suffices for a
#: centre crop of 224 pixels, whose image has a short side of 256.
KEPT, LEAST = 1.4, 256
#: The largest ratio of the sides of an image; resizing a thinner one to its short side would make a huge image.
THINNEST = 100


@dataclass(frozen=True)
class Preprocessing:
    """Turns an RGB image (h, w, 3) into the square that a model takes.

    Attributes:
        size: the side of the square in pixels.
        short_side: the length in pixels to which the short side is resized before the square is cut from the middle;
            None to resize the image to the square without keeping its aspect ratio.
    """

    size: int
    short_side: int | None = None

    @property
    def least(self) -> int:
        """How many pixels of the short side of an image are decoded at least, see `decoding.decode`."""
        return max(LEAST, round(KEPT * max(self.size, self.short_side or 0)))

    @classmethod
    def of(cls, size: int, name: str) -> Preprocessing:
        """The preprocessing of `transforms.test_transform(size, name)`.

        Raises:
            UnknownName: there is no such transform.
            InvalidType, InvalidInput: the size is not a whole number of at least 1.
        """
        check_name("transform", name, TRANSFORMS)
        size = as_whole(size, "size", least=1)
        return cls(size, round(size * 256 / 224) if name in CENTER_CROPPED else None)

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.uint8]:
        """Transforms one image, (h, w, 3) to (size, size, 3).

        Raises:
            InvalidInput: one side is more than `THINNEST` times as long as the other.
        """
        check_shape(*pixels.shape[:2])
        return self.square(pixels)

    def square(self, pixels: Pixels) -> npt.NDArray[np.uint8]:
        """Transforms an image of any shape and any number of channels, (h, w, c) to (size, size, c)."""
        if self.short_side is None:
            return resize(pixels, self.size, self.size)
        height, width = pixels.shape[:2]
        short = min(height, width)
        larger = resize(pixels, int(self.short_side * height / short), int(self.short_side * width / short))
        top, left = (round((side - self.size) / 2) for side in larger.shape[:2])
        return larger[top : top + self.size, left : left + self.size]


def check_shape(height: int, width: int) -> None:
    """Refuses the shape of an image that is too thin; call it before decoding.

    Raises:
        InvalidInput: one side is more than `THINNEST` times as long as the other.
    """
    if max(height, width) > THINNEST * min(height, width):
        raise InvalidInput(
            f"it is {width} pixels wide and {height} high, but its sides may differ at most by a factor of {THINNEST}; "
            "crop it"
        )
