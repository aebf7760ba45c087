"""Writers of small TIFF and PNG files of any kind of pixels, after their specifications and apart from Pillow."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHORT, LONG = 3, 4
DEFLATE = 8


def packed(values: Sequence[int], bits: int) -> bytes:
    """Whole numbers of so many bits behind one another, the upper bits first; zeros fill the last byte."""
    text = "".join(f"{value:0{bits}b}" for value in values)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def tiff(
    rows: Sequence[bytes],
    width: int,
    bits: int,
    *,
    samples: int = 1,
    sample_format: int = 1,
    photometric: int = 1,
    order: str = "<",
    compression: int = 1,
    extra: int | None = None,
) -> bytes:
    """A TIFF file of one strip; the rows are in the byte order that `order` says, < or >."""
    strip = b"".join(rows)
    strip = zlib.compress(strip) if compression == DEFLATE else strip
    tags: list[tuple[int, int, list[int]]] = [
        (256, LONG, [width]),
        (257, LONG, [len(rows)]),
        (258, SHORT, [bits] * samples),
        (259, SHORT, [compression]),
        (262, SHORT, [photometric]),
        (273, LONG, [0]),  # where the strip starts, filled in below
        (277, SHORT, [samples]),
        (278, LONG, [len(rows)]),
        (279, LONG, [len(strip)]),
        (339, SHORT, [sample_format] * samples),
    ]
    if extra is not None:
        tags.append((338, SHORT, [extra]))
    tags.sort()
    behind = 8 + 2 + 12 * len(tags) + 4
    long_values = b""
    entries = b""
    starts = behind + sum(2 * len(values) for _, kind, values in tags if kind == SHORT and len(values) > 2)
    for tag, kind, values in tags:
        values = [starts] if tag == 273 else values
        content = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
        if len(content) > 4:
            long_values, content = long_values + content, struct.pack(f"{order}I", behind + len(long_values))
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    return head + entries + struct.pack(f"{order}I", 0) + long_values + strip


def png(rows: Sequence[bytes], width: int, bits: int, colour: int, **chunks: bytes) -> bytes:
    """A PNG file; `colour` is the type (0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA)."""

    def chunk(name: str, content: bytes) -> bytes:
        named = name.encode() + content
        return struct.pack(">I", len(content)) + named + struct.pack(">I", zlib.crc32(named))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    before = b"".join(chunk(name, content) for name, content in chunks.items())
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + before + chunk("IDAT", pixels) + chunk("IEND", b"")


def on_white(colour: npt.NDArray[np.float64], alpha: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What is seen of colours of 0 to 255 whose alpha is 0 to 1, before a white wall."""
    return colour * alpha + 255 * (1 - alpha)
