"""The files that a user names on the command line: images, and whatever lies in folders; or vectors. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.data.walking import LeftOut, walk
from embedding_expansion.errors import DataError

#: File name endings of vectors with their labels (see `vectors.py`).
VECTOR_SUFFIXES = (".npz", ".parquet")


def is_vector_file(*names: str | os.PathLike[str]) -> bool:
    """Whether one file is named, and it is one of vectors by its ending."""
    return len(names) == 1 and os.path.splitext(names[0])[1].lower() in VECTOR_SUFFIXES


@dataclass(frozen=True)
class ImageFile:
    """A file that was found.

    Attributes:
        path: as it was named, or what was named and the way to it.
        folder: the name of the folder it lies in, if that is a subfolder of a folder that was named; else None.
    """

    path: Path
    folder: str | None = None


@dataclass(frozen=True)
class FoundImages:
    """What was found under some names.

    Attributes:
        files: the images.
        left_out: what else lies in the folders.
    """

    files: list[ImageFile]
    left_out: LeftOut


def find_images(names: Iterable[str | os.PathLike[str]]) -> FoundImages:
    """The files that are named, and the image files in the folders that are named, at any depth.

    Files that are named are taken whatever they are called; in folders, what `walking.walk` finds. All come in the
    order of the names, and a folder's files in the order of their paths.

    Raises:
        DataError: something is not there, a folder cannot be read, or there is no image in all of them.
    """
    given = [Path(name) for name in names]
    is_folder = {name: name.is_dir() for name in given}
    for name in given:
        if not is_folder[name] and not name.is_file():
            raise DataError(f"there is no file or folder {name}; pass images, or a folder that holds some")
    walked = walk([name for name in given if is_folder[name]])
    inside, files = iter(walked.images), list[ImageFile]()
    for name in given:
        files += [_inside(name, path) for path in next(inside)] if is_folder[name] else [ImageFile(name)]
    if not files:
        passed_over = f" ({walked.left_out})" if str(walked.left_out) else ""
        raise DataError(
            f"there is no image in {', '.join(map(str, given)) or 'nothing'}{passed_over}; image files end in .jpg, "
            ".png and the like"
        )
    return FoundImages(files, walked.left_out)


def _inside(top: Path, path: Path) -> ImageFile:
    return ImageFile(path, None if path.parent == top else path.parent.name)
