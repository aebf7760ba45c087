"""Finds the image files that the arguments of a command name, directly or by their folders. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.data.walking import LeftOut, walk
from embedding_expansion.errors import DataError

#: The file name endings of vectors (see `vectors.py`).
VECTOR_SUFFIXES = (".npz", ".parquet")


def is_vector_file(*names: str | os.PathLike[str]) -> bool:
    """Whether the names are a single file of vectors, by its ending."""
    return len(names) == 1 and os.path.splitext(names[0])[1].lower() in VECTOR_SUFFIXES


@dataclass(frozen=True)
class ImageFile:
    """An image file that was found.

    Attributes:
        path: the path as it was named, or below the folder that was named.
        folder: the name of its folder, if that is a subfolder of a folder that was named; otherwise None.
    """

    path: Path
    folder: str | None = None


@dataclass(frozen=True)
class FoundImages:
    """The images that were found.

    Attributes:
        files: the images.
        left_out: what the search skipped in the folders.
    """

    files: list[ImageFile]
    left_out: LeftOut


def find_images(names: Iterable[str | os.PathLike[str]]) -> FoundImages:
    """Finds the named files, and the image files in the named folders, at any depth.

    A named file is included whatever its ending; in folders, the files that `walking.walk` finds are included. The
    result has the order of the names, and the files of a folder are sorted by path.

    Raises:
        DataError: a name does not exist, a folder cannot be read, or there is no image at all.
    """
    given = [Path(name) for name in names]
    is_folder = {name: name.is_dir() for name in given}
    for name in given:
        if not is_folder[name] and not name.is_file():
            raise DataError(f"there is no file or folder {name}; pass images, or a folder with images")
    walked = walk([name for name in given if is_folder[name]])
    inside, files = iter(walked.images), list[ImageFile]()
    for name in given:
        files += [_inside(name, path) for path in next(inside)] if is_folder[name] else [ImageFile(name)]
    if not files:
        skipped = f" ({walked.left_out})" if str(walked.left_out) else ""
        raise DataError(
            f"there is no image in {', '.join(map(str, given)) or 'nothing'}{skipped}; pass files that end in .jpg, "
            ".png or the like"
        )
    return FoundImages(files, walked.left_out)


def _inside(top: Path, path: Path) -> ImageFile:
    return ImageFile(path, None if path.parent == top else path.parent.name)
