"""Decodes image files to pixels with Pillow and NumPy, without torch."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError, features

from embedding_expansion.data.colours import as_rgb
from embedding_expansion.data.scans import check_scans
from embedding_expansion.errors import DataError

#: Pillow decodes AVIF since 11.3, and only if it was built with libavif.
_DECODES_AVIF = "avif" in features.modules and features.check_module("avif")

#: The supported formats by Pillow's names. Other formats of Pillow are refused, because some start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", *(("AVIF",) if _DECODES_AVIF else ()))

#: The file name endings of images; files in folders with other endings are ignored.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
    | ({".avif"} if _DECODES_AVIF else set())
)

#: The endings of images that another build of Pillow would decode.
NOT_DECODED_HERE = frozenset({".avif"}) - IMAGE_SUFFIXES


def decode(source: Path | bytes, max_pixels: int | None = None, *, least: int | None = None) -> npt.NDArray[np.uint8]:
    """Decodes an image to upright RGB; the arguments and errors are those of `decode_with_size`."""
    return decode_with_size(source, max_pixels, least=least)[0]


def decode_with_size(
    source: Path | bytes, max_pixels: int | None = None, *, least: int | None = None
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decodes an image to upright RGB, and says how large it is.

    Pixels of any kind are converted to RGB on white, see `colours`. If the file has several images, such as the frames
    of an animation, the first one is decoded. The orientation tag of cameras is applied.

    Args:
        source: a file, or the content of one.
        max_pixels: the most pixels to decode, at most `PIL.Image.MAX_IMAGE_PIXELS` (89 million, from which Pillow
            suspects a decompression bomb). The size is read from the header, before anything is decoded.
        least: how many pixels of the short side are needed. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, as
            long as its short side keeps as many, which takes a fraction of the time. None decodes all pixels.

    Returns:
        The pixels (h, w, 3), uint8; and (width, height) of the whole upright image.

    Raises:
        DataError: the file is missing, does not have one of the `FORMATS`, cannot be decoded, has floating-point,
            signed or 32-bit pixels (whose range is not known), has too many pixels, or is a JPEG of more than
            `scans.MOST_SCANS` (100) scans. The message names the path.
    """
    name = "the image" if isinstance(source, bytes) else f"the image {source}"
    # Not with the decoder of torchvision, which is deprecated since 0.29 and will be removed. Pillow decodes JPEG files
    # to the same pixels, and takes 2 to 6 ms more for a batch of 64.
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
            whole = image.size
            pixels = to_rgb(image, max_pixels, least=least)
            return pixels, _upright_size(image, whole, pixels)
    except FileNotFoundError as error:
        raise DataError(f"there is no image file {source!s}; restore it, or remove it from the list") from error
    except Exception as error:  # decoders raise errors of any type for broken files; no worker may die of them
        raise DataError(f"{name} cannot be decoded ({_reason(error)}); replace or remove it") from error


def to_rgb(image: Image.Image, max_pixels: int | None = None, *, least: int | None = None) -> npt.NDArray[np.uint8]:
    """Decodes an opened image as `decode` does. With `least`, the opened image itself becomes smaller.

    Raises:
        ValueError: it has too many pixels or scans, or pixels whose range is not known. Errors of its decoder are
            passed on.
    """
    limits = [limit for limit in (max_pixels, Image.MAX_IMAGE_PIXELS) if limit is not None]
    _check_size(image, min(limits, default=None))
    check_scans(image)
    if least is not None:
        _reduce(image, least)
    return np.array(_upright(as_rgb(image), image))


def _upright_size(image: Image.Image, whole: tuple[int, int], pixels: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """(width, height) of the whole image, from that in its header and its decoded pixels."""
    if image.format not in ("JPEG", "MPO") or image.size == whole:  # not reduced
        return pixels.shape[1], pixels.shape[0]
    return (whole[1], whole[0]) if _orientation(image) in _TURNED else whole


def _reduce(image: Image.Image, least: int) -> None:
    """Makes Pillow decode a JPEG at a fraction of its size; has no effect on other formats and on decoded images."""
    short = min(image.size)
    image.draft(None, (image.width * least // short, image.height * least // short))


def _reason(error: Exception) -> str:
    # Pillow's message names the object that it was given, which for bytes is an address in memory.
    unknown = isinstance(error, UnidentifiedImageError)
    return "its format or its kind of pixels is not known" if unknown else str(error)


def _check_size(image: Image.Image, limit: int | None) -> None:
    """Refuses an image above the limit; Pillow only warns up to twice its own limit."""
    pixels = image.width * image.height
    if limit is not None and pixels > limit:
        raise ValueError(f"it has {pixels:,} pixels, but at most {limit:,} are decoded")


#: The transposition that undoes each value of the orientation tag.
_TRANSPOSITIONS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


#: Those that exchange width and height.
_TURNED = (5, 6, 7, 8)


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Applies the orientation tag of an opened file to its pixels. Pillow has already applied that of a .tif."""
    transposition = _TRANSPOSITIONS.get(_orientation(opened))
    return image if transposition is None else image.transpose(transposition)


def _orientation(opened: Image.Image) -> object:
    """The orientation tag of an opened file; None without one, or if the tags are broken while the pixels are not."""
    try:
        return opened.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
