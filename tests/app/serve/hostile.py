"""Uploads that are meant to harm, each made from what a library writes."""

from __future__ import annotations

import io
import re

from PIL import Image


def jpeg_of_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG that goes through all its pixels so many times: its last scan stands there again and again."""
    content = io.BytesIO()
    Image.new("L", (width, height), 128).save(content, "JPEG", progressive=True)
    file = content.getvalue()
    starts = [found.start() for found in re.finditer(b"\xff\xda", file)]
    return file[:-2] + file[starts[-1] : -2] * (scans - len(starts)) + file[-2:]


def image(kind: str, width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    """An image of one colour."""
    content = io.BytesIO()
    Image.new(mode, (width, height)).save(content, kind, **options)
    return content.getvalue()
