"""Omniglot: handwritten characters of 50 alphabets, 20 drawings each, 105 x 105, one bit.

The background alphabets train, the evaluation alphabets test. A class is a character of an alphabet. The drawings come
as black strokes on white; here the strokes are white (255) on black (0), as in the glyphs, so that whatever a transform
adds at the edge is background. Neither mirrored nor turned.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.official import DatasetCounts, SplitCounts, count_split, name_of
from embedding_expansion.data.walking import is_litter, walk
from embedding_expansion.errors import DataError

EXPECTED = DatasetCounts(train=SplitCounts(964, 19_280), test=SplitCounts(659, 13_180))
#: Folders of a root in which the two sides are looked for ("." is the root itself).
FOLDERS = ("omniglot", "omniglot-py", ".")
_TRAIN, _TEST = "images_background", "images_evaluation"


def is_omniglot(folder: Path) -> bool:
    """Whether both sides, as folders or zips, are here."""
    return all(_find(folder, side) is not None for side in (_TRAIN, _TEST))


def open_omniglot(folder: Path, part: bool, expected: DatasetCounts = EXPECTED) -> Dataset:
    """Read both sides into memory (about 360 MB; 2 seconds).

    Raises:
        DataError: if an image cannot be read, or the counts are not the official ones and no part was asked for.
    """
    train, test = (_read_side(folder, side) for side in (_TRAIN, _TEST))
    found = DatasetCounts(count_split(train), count_split(test))
    return Dataset(name_of("Omniglot", found, expected, part), train, test, transform="none")


def _find(folder: Path, side: str) -> Path | None:
    candidates = (folder / side, folder / f"{side}.zip", folder / f"omniglot_{side}.zip")
    return next((path for path in candidates if path.exists()), None)


def _read_side(folder: Path, side: str) -> ImageSet:
    source = _find(folder, side)
    if source is None:
        raise DataError(
            f"{folder} holds neither a folder {side} nor {side}.zip; `embex data omniglot` says where to get it"
        )
    drawings: dict[str, list[bytes]] = {}
    for place, data in sorted(_files(source)):
        drawings.setdefault("/".join(place.parts[-3:-1]), []).append(data)
    labels = np.repeat(np.arange(len(drawings), dtype=np.int64), [len(images) for images in drawings.values()])
    pixels = np.empty((len(labels), 1, 105, 105), dtype=np.uint8)
    index = 0
    for character, images in drawings.items():
        for data in images:
            pixels[index, 0] = _strokes(data, f"{source}, {character}")
            index += 1
    return ImageSet(labels, tuple(drawings), pixels=pixels)


def _files(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The place, .../alphabet/character/drawing.png, and the bytes of every drawing."""
    if source.is_dir():
        (images,) = walk([source]).images
        for path in images:
            if len(path.parts) == len(source.parts) + 3 and path.suffix == ".png":
                yield PurePosixPath(path.as_posix()), _bytes_of(path)
        return
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                if name.endswith(".png") and not any(map(is_litter, PurePosixPath(name).parts)):
                    yield PurePosixPath(name), archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{source} is no whole zip file ({error}); get it again") from error


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the drawing {path} cannot be read ({error.strerror or error}); get the set again") from error


def _strokes(data: bytes, where: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """One drawing, (105, 105): strokes 255, background 0."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (105, 105):
                raise ValueError(f"it has {image.width} x {image.height} pixels, 105 x 105 are expected")
            return 255 - np.asarray(image.convert("L"), dtype=np.uint8)
    except Exception as error:  # whatever a decoder makes of a broken file
        raise DataError(f"a drawing in {where} cannot be decoded ({error}); get the archive again") from error
