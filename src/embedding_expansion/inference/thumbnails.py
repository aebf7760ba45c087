"""Small pictures of images, kept in an index so that no page ever needs the original files."""

from __future__ import annotations

import io

from PIL import Image

from embedding_expansion.data.resizing import Pixels

#: The longer side of a thumbnail is at most so many pixels.
SIDE = 256
#: Images of at most so many pixels in width are kept without loss: JPEG would spoil them and save nothing.
SMALL = 64
QUALITY = 85


def thumbnail(pixels: Pixels) -> bytes:
    """The picture as the bytes of a file: PNG where the image is at most 64 pixels wide, else JPEG.

    The longer side is at most 256 pixels; smaller images keep their size.

    Args:
        pixels: RGB, uint8, (h, w, 3).

    Example:
        >>> import numpy as np
        >>> Image.open(io.BytesIO(thumbnail(np.zeros((300, 600, 3), np.uint8)))).size
        (256, 128)
    """
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    if pixels.shape[1] <= SMALL:
        image.save(content, "PNG")
    else:
        image.save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
