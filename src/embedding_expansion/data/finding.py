"""The files that a user names on the command line: images, and whatever lies in folders; or vectors. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.data.decoding import IMAGE_SUFFIXES
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


def find_images(names: Iterable[str | os.PathLike[str]]) -> list[ImageFile]:
    """The files that are named, and the image files in the folders that are named, at any depth.

    Files that are named are taken whatever they are called; in folders, files with an ending of `IMAGE_SUFFIXES`. A
    folder's files come in the order of their paths, and links to folders are not followed.

    Raises:
        DataError: something is not there, or there is no image in all of them.
    """
    files, given = list[ImageFile](), [Path(name) for name in names]
    for name in given:
        if name.is_dir():
            files += _in_folder(name)
        elif name.is_file():
            files.append(ImageFile(name))
        else:
            raise DataError(f"there is no file or folder {name}; pass images, or a folder that holds some")
    if not files:
        raise DataError(
            f"there is no image in {', '.join(map(str, given)) or 'nothing'}; image files end in .jpg, .png and the "
            "like"
        )
    return files


def _in_folder(top: Path) -> list[ImageFile]:
    found = (
        Path(folder, name)
        for folder, _, names in os.walk(top)
        for name in names
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    )
    return [
        ImageFile(path, None if path.parent == top else path.parent.name) for path in sorted(found) if path.is_file()
    ]
