"""Converts images with any kind of pixels to RGB with 8 bits per channel, on a white background.

| pixels                                  | become                                                               |
|-----------------------------------------|----------------------------------------------------------------------|
| 1, 2, 4 or 8 bits, grey                 | scaled to 0..255                                                     |
| 12 bits (TIFF), 16 bits grey            | scaled to 0..255 and rounded: v * 255 / 4095, v / 257                |
| 16 bits per colour                      | the upper 8 bits                                                     |
| palette                                 | the colours of the palette                                           |
| CMYK, YCCK, YCbCr, Lab                  | RGB; colour profiles are not applied                                 |
| partly or fully transparent             | composed onto white: (a * v + (255 - a) * 255) / 255, rounded        |
| signed, 32 bits, floating-point         | refused, because the value of white is not known                     |

Documents and web pages show images on white. The colour that a file stores under transparent pixels is arbitrary and
never visible.
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

#: The colour behind transparent pixels.
GROUND = (255, 255, 255)

_SIGNED, _WHITE_IS_ZERO = 2, 0  # values of two tags of TIFF files


def as_rgb(image: Image.Image) -> Image.Image:
    """Converts an opened image to mode RGB, and decodes it if necessary.

    Raises:
        ValueError: the range of its pixels is not known (see the table above). Errors of its decoder are passed on.
    """
    white = _white(image)
    _mend_transparent_colour(image)
    image.load()
    if image.mode.startswith("I"):
        image = _grey(image, white)
    elif image.mode == "La":  # LA with premultiplied alpha, which Pillow converts only to LA
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGB", image.size, GROUND)
    visible = image.convert("RGBA")
    ground.paste(visible, mask=visible)
    return ground


def _white(image: Image.Image) -> int:
    """The largest value of a pixel, which is white."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 bits")
    # Pillow uses mode "I" for signed and 32-bit numbers, and for the 16 bits of a .pgm; older versions also of a .png.
    if _SIGNED in tags.get(ExifTags.Base.SampleFormat, ()) or (
        image.mode == "I" and image.format not in ("PNG", "PPM")
    ):
        raise ValueError("its pixels are signed or 32-bit numbers; save it with 8 or 16 bits, unsigned")
    if image.mode.startswith("I"):
        return 4095 if tags.get(ExifTags.Base.BitsPerSample) == (12,) else 65535
    return 255


def _grey(image: Image.Image, white: int) -> Image.Image:
    """Scales an image of whole numbers from 0 to `white` to 8 bits."""
    table = ((np.arange(65536) * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation, 1) == _WHITE_IS_ZERO:
        table = 255 - table  # as Pillow does with 8 bits
    transparent = image.info.get("transparency")
    if transparent is not None:  # a grey value
        table[transparent] = GROUND[0]
    numbers = np.asarray(image)
    grey = np.empty(numbers.shape, np.uint8)
    for row, shades in zip(numbers, grey, strict=True):  # row by row, since all at once takes 8 bytes per pixel
        shades[:] = table[row]
    return Image.fromarray(grey)


def _mend_transparent_colour(image: Image.Image) -> None:
    """Scales the transparent colour of a .png to 8 bits, because Pillow leaves it at the depth of the file."""
    colour = image.info.get("transparency")
    for _, _, _, kind, *_ in getattr(image, "tile", ()):  # empty once the pixels are decoded
        if kind in ("L;2", "L;4") and isinstance(colour, int):
            image.info["transparency"] = colour * (85 if kind == "L;2" else 17)
        elif kind == "RGB;16B" and isinstance(colour, tuple):
            image.info["transparency"] = tuple(part >> 8 for part in colour)
