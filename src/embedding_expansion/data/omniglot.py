"""Omniglot: handwritten characters of 50 alphabets, 20 drawings each, 105 x 105, one bit.

The background alphabets are the training split, the evaluation alphabets the test split. A class is a character of an
alphabet. The files have black strokes on white. They are inverted to white (255) on black (0), as in the glyphs, so
that what a transform adds at the edges is background. The drawings are neither mirrored nor rotated.
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
#: The folders of a root in which the two splits are searched for ("." is the root).
FOLDERS = ("omniglot", "omniglot-py", ".")
_TRAIN, _TEST = "images_background", "images_evaluation"


def is_omniglot(folder: Path) -> bool:
    """Whether a folder has both splits, as folders or .zip files."""
    return all(_find(folder, split) is not None for split in (_TRAIN, _TEST))


def open_omniglot(folder: Path, part: bool, expected: DatasetCounts = EXPECTED) -> Dataset:
    """Reads both splits into memory (about 360 MB; 2 seconds).

    Raises:
        DataError: an image cannot be read, or the counts are not the official ones and `part` is False.
    """
    train, test = (_read_split(folder, split) for split in (_TRAIN, _TEST))
    found = DatasetCounts(count_split(train), count_split(test))
    return Dataset(name_of("Omniglot", found, expected, part), train, test, transform="none")


def _find(folder: Path, split: str) -> Path | None:
    candidates = (folder / split, folder / f"{split}.zip", folder / f"omniglot_{split}.zip")
    return next((path for path in candidates if path.exists()), None)


def _read_split(folder: Path, split: str) -> ImageSet:
    source = _find(folder, split)
    if source is None:
        raise DataError(
            f"{folder} has neither a folder {split} nor {split}.zip; `embex data omniglot` says how to get it"
        )
    drawings: dict[str, list[bytes]] = {}
    for path, data in sorted(_files(source)):
        drawings.setdefault("/".join(path.parts[-3:-1]), []).append(data)
    labels = np.repeat(np.arange(len(drawings), dtype=np.int64), [len(images) for images in drawings.values()])
    pixels = np.empty((len(labels), 1, 105, 105), dtype=np.uint8)
    index = 0
    for character, images in drawings.items():
        for data in images:
            pixels[index, 0] = _strokes(data, f"{source}, {character}")
            index += 1
    return ImageSet(labels, tuple(drawings), pixels=pixels)


def _files(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields the path, .../alphabet/character/drawing.png, and the bytes of every drawing."""
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
        raise DataError(f"{source} is not a complete .zip file ({error}); download it again") from error


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the drawing {path} cannot be read ({error.strerror or error}); download the set again"
        ) from error


def _strokes(data: bytes, where: str) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Decodes a drawing to (105, 105), uint8, with strokes 255 and background 0."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (105, 105):
                raise ValueError(f"it has {image.width} x {image.height} pixels instead of 105 x 105")
            return 255 - np.asarray(image.convert("L"), dtype=np.uint8)
    except Exception as error:  # decoders raise errors of any type for broken files
        raise DataError(f"a drawing in {where} cannot be decoded ({error}); download the set again") from error
