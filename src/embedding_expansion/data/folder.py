"""Any folder of class folders as a data set."""

from __future__ import annotations

import os
from pathlib import Path

from embedding_expansion.data.decoding import IMAGE_SUFFIXES
from embedding_expansion.data.images import Dataset, ImageSet, image_files
from embedding_expansion.errors import DataError, InvalidInput


def open_folder(folder: Path, train_classes: int | None = None) -> Dataset:
    """Open a folder whose folders are classes.

    With `train/` and `test/` inside, the class folders of each are its side. Otherwise the classes are split: in the
    order of their names the first half (of an odd number the smaller half) trains and the rest tests. Images may lie
    deeper within a class folder, links are followed; hidden files and files that are no images are ignored.

    Args:
        folder: the folder.
        train_classes: how many classes train, instead of half of them.

    Raises:
        DataError: if a class folder has no image, or there are fewer than two classes.
        InvalidInput: if `train_classes` leaves a side empty, or is given where train/ and test/ decide.
    """
    names = [entry.name for entry in _folders(folder)]
    if "train" in names and "test" in names:
        if train_classes is not None:
            raise InvalidInput(f"{folder} is split by its train/ and test/; leave train_classes away")
        train, test = _classes(folder / "train"), _classes(folder / "test")
    elif "train" in names or "test" in names:
        present, absent = ("train", "test") if "train" in names else ("test", "train")
        raise DataError(f"{folder} has {present}/ but no {absent}/; a folder needs both, or class folders only")
    else:
        classes = _classes(folder)
        first = _train_count(folder, len(classes), train_classes)
        train, test = dict(list(classes.items())[:first]), dict(list(classes.items())[first:])
    return Dataset(folder.resolve().name, _image_set(train), _image_set(test))


def _train_count(folder: Path, classes: int, asked: int | None) -> int:
    if classes < 2:
        raise DataError(f"{folder} has {classes} class folder{'' if classes else 's'}; at least two are needed")
    if asked is None:
        return classes // 2
    if not 0 < asked < classes:
        raise InvalidInput(f"train_classes is {asked} but {folder} has {classes} classes; give 1 to {classes - 1}")
    return asked


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class folder, in the order of the names."""
    classes = {entry.name: _images(entry) for entry in _folders(folder)}
    if not classes:
        raise DataError(f"{folder} has no class folders; images are expected in one folder per class")
    empty = [name for name, images in classes.items() if not images]
    if empty:
        raise DataError(
            f"no images in the class folder{'s' if len(empty) > 1 else ''} {', '.join(empty)} of {folder}; "
            "add images or remove the folder"
        )
    return classes


def _images(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link led back to where we were
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES)


def _image_set(classes: dict[str, list[Path]]) -> ImageSet:
    return image_files(
        [path for images in classes.values() for path in images],
        [name for name, images in classes.items() for _ in images],
    )
