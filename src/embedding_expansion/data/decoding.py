"""How one image file becomes pixels: Pillow and NumPy only, so that a program without torch can."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, features

from embedding_expansion.data.colours import as_rgb
from embedding_expansion.data.scans import check_scans
from embedding_expansion.errors import DataError

#: Pillow decodes AVIF since 11.3, and only where it was built with libavif.
_DECODES_AVIF = "avif" in features.modules and features.check_module("avif")

#: The formats that are decoded, as Pillow names them. Others that it knows are left alone: some start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", *(("AVIF",) if _DECODES_AVIF else ()))

#: File name endings that count as images; other files in a data set's folder are ignored.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
    | ({".avif"} if _DECODES_AVIF else set())
)

#: Endings that would count as images with another Pillow.
NOT_DECODED_HERE = frozenset({".avif"}) - IMAGE_SUFFIXES


def decode(source: Path | bytes, max_pixels: int | None = None) -> npt.NDArray[np.uint8]:
    """Decode an image to RGB, upright: uint8, shape (h, w, 3).

    Pixels of other kinds become RGB as `colours` says, transparent ones on white. Of several images in a file, such as
    the frames of an animation, the first is taken; the orientation that a camera noted is applied.

    Args:
        source: a file, or what stands in one.
        max_pixels: the most pixels that are decoded; at most `PIL.Image.MAX_IMAGE_PIXELS` (89 million, where Pillow
            suspects a decompression bomb). The size is read from the header, before anything is decoded.

    Raises:
        DataError: if the file is missing, is none of the `FORMATS`, cannot be decoded, has floating-point, signed or
            32-bit pixels (their range is not known), has too many pixels, or is a JPEG of more than `scans.MOST_SCANS`
            scans (100); names its path.
    """
    name = "the image" if isinstance(source, bytes) else f"the image {source}"
    # Pillow and not torchvision's decoder: that is deprecated since torchvision 0.29 and will be removed. The pixels of
    # JPEG files are the same; a batch of 64 costs 2 to 6 ms more.
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            return to_rgb(image, max_pixels)
    except FileNotFoundError as error:
        raise DataError(f"there is no image file {source!s}; restore it, or take it off the list") from error
    except Exception as error:  # whatever a decoder makes of a broken file: no worker is to die of it
        raise DataError(f"{name} cannot be decoded ({_reason(error)}); replace or remove it") from error


def to_rgb(image: Image.Image, max_pixels: int | None = None) -> npt.NDArray[np.uint8]:
    """The pixels of an opened image, as `decode` gives them.

    Raises:
        ValueError: it has too many pixels or scans, or pixels whose range is not known; or whatever its decoder raises.
    """
    limits = [limit for limit in (max_pixels, Image.MAX_IMAGE_PIXELS) if limit is not None]
    _check_size(image, min(limits, default=None))
    check_scans(image)
    return np.array(_turned(as_rgb(image), image))


def _reason(error: Exception) -> str:
    # Pillow's own sentence names the object that it was given: of bytes that is an address in memory.
    unknown = isinstance(error, UnidentifiedImageError)
    return "it is no image of a known format or kind of pixels" if unknown else str(error)


def _check_size(image: Image.Image, limit: int | None) -> None:
    """Pillow itself refuses from twice its limit on; from the limit on it only warns, and would decode."""
    pixels = image.width * image.height
    if limit is not None and pixels > limit:
        raise ValueError(f"it has {pixels:,} pixels, more than the {limit:,} that are decoded")


#: What undoes each value of the orientation tag.
_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turned(image: Image.Image, like: Image.Image) -> Image.Image:
    """The image turned as the tags of the file that it is from say. Of a .tif Pillow has turned it, and the tags."""
    try:
        turn = _UPRIGHT.get(like.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # the tags are broken, the pixels are not
        return image
    return image if turn is None else image.transpose(turn)
