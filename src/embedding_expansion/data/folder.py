"""Any folder of class folders as a data set."""

from __future__ import annotations

import os
from pathlib import Path

from embedding_expansion.data.images import Dataset, ImageSet, image_files
from embedding_expansion.data.repeats import first_repeat
from embedding_expansion.data.walking import LeftOut, first_part, is_litter, listing, walk
from embedding_expansion.errors import DataError, InvalidInput

SIDES = ("train", "test")


def open_folder(folder: Path, train_classes: int | None = None) -> Dataset:
    """Open a folder whose folders are classes.

    With `train/` and `test/` inside, the class folders of each are its side. Otherwise the classes are split: in the
    order of their names the first half (of an odd number the smaller half) trains and the rest tests. Images may lie
    deeper within a class folder. Links are followed, hidden files and files that are no images left out, as
    `walking.walk` says; `Dataset.left_out` tells of it, and of class folders that have no image.

    Args:
        folder: the folder.
        train_classes: how many classes train, instead of half of them.

    Raises:
        DataError: if a folder cannot be read, a file or a class folder is there twice by means of links, or there are
            fewer than two classes with images.
        InvalidInput: if `train_classes` leaves a side empty, or is given where train/ and test/ decide.
    """
    sides = [folder / side for side in SIDES if os.path.isdir(folder / side)]
    if len(sides) == 1:
        absent = next(side for side in SIDES if folder / side not in sides)
        raise DataError(f"{folder} has {sides[0].name}/ but no {absent}/; a folder needs both, or class folders only")
    if sides and train_classes is not None:
        raise InvalidInput(f"{folder} is split by its train/ and test/; leave train_classes away")
    tops = sides or [folder]
    walked = walk(tops)
    _refuse_twice(tops, walked.images, walked.left_out)
    left_out = _left_out(folder, tops, walked.images, walked.left_out)
    found = [_classes(top, images, left_out) for top, images in zip(tops, walked.images, strict=True)]
    if sides:
        train, test = found
    else:
        (classes,) = found
        first = _train_count(folder, len(classes), train_classes, left_out)
        train, test = dict(list(classes.items())[:first]), dict(list(classes.items())[first:])
    return Dataset(folder.resolve().name, _image_set(train), _image_set(test), left_out=left_out)


def _train_count(folder: Path, classes: int, asked: int | None, left_out: str) -> int:
    if classes < 2:
        raise DataError(f"{folder} has {classes} class folder with images; at least two are needed{_hint(left_out)}")
    if asked is None:
        return classes // 2
    if not 0 < asked < classes:
        raise InvalidInput(f"train_classes is {asked} but {folder} has {classes} classes; give 1 to {classes - 1}")
    return asked


def _classes(top: Path, images: list[Path], left_out: str) -> dict[str, list[Path]]:
    """The images of each class folder, in the order of the names."""
    classes: dict[str, list[Path]] = {}
    for path in images:
        if path.parent != top:
            classes.setdefault(first_part(path, top), []).append(path)
    if not classes:
        raise DataError(
            f"{top} has no class folders with images; images are expected in one folder per class{_hint(left_out)}"
        )
    return classes


def _hint(left_out: str) -> str:
    return f" ({left_out})" if left_out else ""


def _left_out(folder: Path, tops: list[Path], images: list[list[Path]], left_out: LeftOut) -> str:
    """What is not in the data set, in a line."""
    loose = sum(path.parent == top for top, found in zip(tops, images, strict=True) for path in found)
    parts = [str(left_out)]
    if loose:
        parts.append(f"images in no class folder: {loose:,}")
    if tops != [folder]:
        beside = [name for name in sorted(os.listdir(folder)) if name not in SIDES and not is_litter(name)]
        others = listing(name for name in beside if os.path.isdir(folder / name))
        parts += [f"folders beside train/ and test/: {others}"] if others else []
    return "; ".join(part for part in parts if part)


def _refuse_twice(tops: list[Path], images: list[list[Path]], left_out: LeftOut) -> None:
    """Refuses what links put into two classes, or into one class twice."""
    for path, first in left_out.again.items():
        if path in tops or path.parent in tops:
            raise DataError(
                f"{path} is a link to {first}, so that its images would be in the set twice; remove one of the two"
            )
    paths = [path for found in images for path in found]
    if repeat := first_repeat(paths):
        first, path = (paths[position] for position in repeat)
        raise DataError(f"{path} is the same file as {first}, and would be in the set twice; remove one of the two")


def _image_set(classes: dict[str, list[Path]]) -> ImageSet:
    return image_files(
        [path for images in classes.values() for path in images],
        [name for name, images in classes.items() for _ in images],
    )
