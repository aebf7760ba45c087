"""Thumbnails: small copies of images, as an index stores them and as HTML pages contain them."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

#: The longer side of a thumbnail in pixels, at most.
SIDE = 256
_QUALITY = 85
_PNG = b"\x89PNG"


def thumbnail(pixels: npt.NDArray[np.uint8], side: int = SIDE, lossless: int = 64) -> bytes:
    """Shrinks an image and encodes it, as PNG or as JPEG.

    Args:
        pixels: RGB (h, w, 3) or grey (h, w).
        side: the longer side of the thumbnail in pixels, at most; a smaller image keeps its size.
        lossless: the largest width in pixels of an image that is encoded as PNG. JPEG would blur so small an image and
            save nothing.

    Returns:
        The bytes of the file.

    Example:
        >>> Image.open(io.BytesIO(thumbnail(np.zeros((300, 600, 3), np.uint8)))).size
        (256, 128)
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    content = io.BytesIO()
    if pixels.shape[1] <= lossless:
        image.save(content, "PNG")
    else:
        image.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def data_uri(content: bytes) -> str:
    """A thumbnail as a data URI, which makes it part of an HTML page."""
    kind = "png" if content.startswith(_PNG) else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
