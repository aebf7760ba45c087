"""How often a JPEG file goes through all of its pixels: its scans, counted before anything is decoded.

A baseline JPEG has one scan, a progressive one some ten. A small file may hold thousands of empty ones, and each takes
as long to decode as an image.
"""

from __future__ import annotations

import io
import re

from PIL import Image

#: The most scans that are decoded; libtiff has the same limit for the JPEG data in a TIFF file.
MOST_SCANS = 100

_START_OF_SCAN, _END_OF_IMAGE, _TEMPORARY = 0xDA, 0xD9, 0x01
#: A byte 0xFF and what it announces. Between scans lie the pixels, in which 0xFF is followed by 0 or restart markers.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_BLOCK = 4096


def check_scans(image: Image.Image) -> None:
    """Refuses an opened JPEG image of too many scans; what is no JPEG, or is decoded already, passes.

    Raises:
        ValueError: it has more than `MOST_SCANS`.
    """
    if has_more_scans(image, MOST_SCANS):
        raise ValueError(f"it has more than the {MOST_SCANS} scans that are decoded")


def has_more_scans(image: Image.Image, most: int) -> bool:
    """Whether an opened JPEG image has more scans than that; what is no JPEG, or is decoded already, has none."""
    file, tiles = getattr(image, "fp", None), getattr(image, "tile", ())
    return file is not None and any(
        decoder == "jpeg" and _has_more(file, start, most) for decoder, _, start, *_ in tiles
    )


def _has_more(file: io.BufferedIOBase, start: int, most: int) -> bool:
    """Whether the JPEG that starts there has; the place in the file is kept. What follows its end does not count."""
    before, scans = file.tell(), 0
    try:
        file.seek(start + 2)
        while scans <= most and (marker := _next_marker(file)) not in (None, _END_OF_IMAGE):
            scans += marker == _START_OF_SCAN
            if marker != _TEMPORARY:  # the others say how long they are, the two bytes of the length included
                file.seek(max(0, int.from_bytes(file.read(2), "big") - 2), 1)
    finally:
        file.seek(before)
    return scans > most


def _next_marker(file: io.BufferedIOBase) -> int | None:
    """The second byte of the next marker, behind which the file then stands; None where there is none."""
    while len(block := file.read(_BLOCK)) > 1:
        found = _MARKER.search(block)
        if found:
            file.seek(found.end() - len(block), 1)
            return found[0][1]
        if block.endswith(b"\xff"):  # half a marker
            file.seek(-1, 1)
    return None
