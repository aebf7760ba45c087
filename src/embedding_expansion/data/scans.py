"""Counts the scans of a JPEG file, its passes over all pixels, before anything is decoded.

A baseline JPEG has one scan, a progressive one about ten. A small file can hold thousands of empty scans, each of which
takes as long to decode as a whole image.
"""

from __future__ import annotations

import io
import re

from PIL import Image

#: The most scans that are decoded; libtiff has the same limit for the JPEG data in a TIFF file.
MOST_SCANS = 100

_START_OF_SCAN, _END_OF_IMAGE, _TEMPORARY = 0xDA, 0xD9, 0x01
#: A marker: the byte 0xFF and the type. In the pixel data between markers, 0xFF is followed by 0 or a restart marker.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BLOCK = 4096


def check_scans(image: Image.Image) -> None:
    """Refuses an opened JPEG image with too many scans; other formats and decoded images pass.

    Raises:
        ValueError: it has more than `MOST_SCANS` scans.
    """
    if has_more_scans(image, MOST_SCANS):
        raise ValueError(f"it has more than {MOST_SCANS} scans, the most that are decoded")


def has_more_scans(image: Image.Image, most: int) -> bool:
    """Whether an opened JPEG image has more than `most` scans; False for other formats and for decoded images."""
    file, tiles = getattr(image, "fp", None), getattr(image, "tile", ())
    return file is not None and any(
        decoder == "jpeg" and _has_more(file, start, most) for decoder, _, start, *_ in tiles
    )


def _has_more(file: io.BufferedIOBase, start: int, most: int) -> bool:
    """Whether the JPEG data at `start` have more than `most` scans before their end; keeps the position in the file."""
    before, scans = file.tell(), 0
    try:
        file.seek(start + 2)
        while scans <= most and (marker := _next_marker(file)) not in (None, _END_OF_IMAGE):
            scans += marker == _START_OF_SCAN
            if marker != _TEMPORARY:  # the others are followed by their length, which includes its own two bytes
                file.seek(max(0, int.from_bytes(file.read(2), "big") - 2), 1)
    finally:
        file.seek(before)
    return scans > most


def _next_marker(file: io.BufferedIOBase) -> int | None:
    """The type of the next marker, after which the file is then positioned; None if there is none."""
    while len(block := file.read(_BLOCK)) > 1:
        found = _MARKER.search(block)
        if found:
            file.seek(found.end() - len(block), 1)
            return found[0][1]
        if block.endswith(b"\xff"):  # the first half of a marker
            file.seek(-1, 1)
    return None
