"""What the numbers of an image mean: RGB with 8 bits of every kind of pixels, on white where they are transparent.

| pixels                                  | become                                                               |
|-----------------------------------------|----------------------------------------------------------------------|
| 1, 2, 4 or 8 bits, grey                 | 0 to 255, the largest number is 255                                  |
| 12 bits (TIFF), 16 bits grey            | the same, rounded: v * 255 / 4095, v / 257                           |
| 16 bits a colour                        | the upper 8 of them                                                  |
| of a palette                            | the colours in it                                                    |
| CMYK, YCCK, YCbCr, Lab                  | RGB; colour profiles are not applied                                 |
| transparent, in part or altogether      | composed onto white: (a * v + (255 - a) * 255) / 255, rounded        |
| signed, 32 bits, floating-point         | refused: the number that means white is not known                    |

White is what documents and web pages show behind a picture. The colour that a file keeps under transparent pixels is
arbitrary, and nobody has seen it.
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

#: What shows through transparent pixels.
GROUND = (255, 255, 255)

_SIGNED, _WHITE_IS_ZERO = 2, 0  # values of two tags of TIFF files


def as_rgb(image: Image.Image) -> Image.Image:
    """An opened image as one of mode RGB, whose pixels are decoded now if they have not been.

    Raises:
        ValueError: its range is not known (the table above); or whatever its decoder raises.
    """
    white = _white(image)
    _mend_transparent_colour(image)
    image.load()
    if image.mode.startswith("I"):
        image = _grey(image, white)
    elif image.mode == "La":  # as LA, but multiplied; Pillow converts it to that alone
        image = image.convert("LA")
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGB", image.size, GROUND)
    visible = image.convert("RGBA")
    ground.paste(visible, mask=visible)
    return ground


def _white(image: Image.Image) -> int:
    """The largest number that a pixel may have, which is white."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 bits")
    # Pillow has signed numbers and those of 32 bits as "I", and 16 bits of a .pgm; older ones those of a .png, too.
    if _SIGNED in tags.get(ExifTags.Base.SampleFormat, ()) or (
        image.mode == "I" and image.format not in ("PNG", "PPM")
    ):
        raise ValueError("its pixels are signed or 32-bit numbers; save it with 8 or 16 bits, unsigned")
    if image.mode.startswith("I"):
        return 4095 if tags.get(ExifTags.Base.BitsPerSample) == (12,) else 65535
    return 255


def _grey(image: Image.Image, white: int) -> Image.Image:
    """An image of whole numbers from 0 to `white` with 8 bits."""
    table = ((np.arange(65536) * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation, 1) == _WHITE_IS_ZERO:
        table = 255 - table  # Pillow does so with 8 bits
    transparent = image.info.get("transparency")
    if transparent is not None:  # one of the greys
        table[transparent] = GROUND[0]
    numbers = np.asarray(image)
    grey = np.empty(numbers.shape, np.uint8)
    for row, shades in zip(numbers, grey, strict=True):  # at once it would take 8 bytes a pixel
        shades[:] = table[row]
    return Image.fromarray(grey)


def _mend_transparent_colour(image: Image.Image) -> None:
    """Brings the transparent colour of a .png to 8 bits: Pillow leaves it at the depth that the file has."""
    colour = image.info.get("transparency")
    for _, _, _, kind, *_ in getattr(image, "tile", ()):  # none once the pixels are decoded
        if kind in ("L;2", "L;4") and isinstance(colour, int):
            image.info["transparency"] = colour * (85 if kind == "L;2" else 17)
        elif kind == "RGB;16B" and isinstance(colour, tuple):
            image.info["transparency"] = tuple(part >> 8 for part in colour)
