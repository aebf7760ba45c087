"""Finds the image files that the arguments of a command name, directly or by their folders. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from embedding_expansion.data.prepared import Prepared, is_prepared
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
        path: the path as it was named, or below the folder that was named. For a shrunk image of a prepared set, that
            of its original, as long as the folder of the originals is there.
        folder: the name of its folder, if that is a subfolder of a folder that was named; otherwise None.
        shrunk: for a shrunk image whose original is named, the file that is read in its place; otherwise None.
    """

    path: Path
    folder: str | None = None
    shrunk: Path | None = None

    @property
    def read(self) -> Path:
        """The file to read."""
        return self.path if self.shrunk is None else self.shrunk


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

    A named file is included whatever its ending; in folders, the files that `walking.walk` finds are included, and of a
    prepared set, those of its manifest. The result has the order of the names, and the files of a folder are sorted by
    path.

    Raises:
        DataError: a name does not exist, a folder cannot be read, a prepared set is not complete, or there is no image
            at all.
    """
    given = [Path(name) for name in names]
    prepared = {name: _in_prepared(Prepared.read(name)) for name in given if is_prepared(name)}
    is_folder = {name: name.is_dir() and name not in prepared for name in given}
    for name in given:
        if not is_folder[name] and name not in prepared and not name.is_file():
            raise DataError(f"there is no file or folder {name}; pass images, or a folder with images")
    walked = walk([name for name in given if is_folder[name]])
    inside, files = iter(walked.images), list[ImageFile]()
    for name in given:
        if name in prepared:
            files += prepared[name]
        else:
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


def _in_prepared(prepared: Prepared) -> list[ImageFile]:
    """The images of a prepared set, under the names of their originals unless these are out of reach."""
    has_originals, found = os.path.isdir(prepared.base), list[ImageFile]()
    for original, file in prepared.images():
        folder, path = PurePath(original).parent.name or None, prepared.folder / file
        whole = Path(prepared.base, original)
        found.append(ImageFile(whole, folder, path) if has_originals else ImageFile(path, folder))
    return found
