"""Opens a folder of class folders as a data set."""

from __future__ import annotations

import os
from pathlib import Path

from embedding_expansion.data.images import Dataset, ImageSet, image_files
from embedding_expansion.data.repeats import first_repeat
from embedding_expansion.data.walking import LeftOut, first_part, is_litter, listing, walk
from embedding_expansion.errors import DataError, InvalidInput

SPLITS = ("train", "test")


def open_folder(folder: Path, train_classes: int | None = None) -> Dataset:
    """Opens a folder whose subfolders are classes.

    If it contains `train/` and `test/`, the class folders of each are that split. Otherwise the first half of the
    classes by name (the smaller half of an odd number) is the training split and the rest the test split. Images may
    lie deeper within a class folder. Links are followed, and hidden files and files that are not images are skipped,
    see `walking.walk`. `Dataset.left_out` lists what was skipped, and the class folders without images.

    Args:
        folder: the folder.
        train_classes: how many classes to train on; None for half of them.

    Raises:
        DataError: a folder cannot be read, links include a file or a class folder twice, or fewer than two classes have
            images.
        InvalidInput: `train_classes` leaves a split empty, or is given although `train/` and `test/` define the split.
    """
    splits = [folder / split for split in SPLITS if os.path.isdir(folder / split)]
    if len(splits) == 1:
        absent = next(split for split in SPLITS if folder / split not in splits)
        raise DataError(f"{folder} has {splits[0].name}/ but no {absent}/; add it, or use class folders only")
    if splits and train_classes is not None:
        raise InvalidInput(
            f"train_classes is {train_classes}, but train/ and test/ in {folder} define the split; do not pass "
            "train_classes"
        )
    tops = splits or [folder]
    walked = walk(tops)
    _refuse_twice(tops, walked.images, walked.left_out)
    left_out = _left_out(folder, tops, walked.images, walked.left_out)
    found = [_classes(top, images, left_out) for top, images in zip(tops, walked.images, strict=True)]
    if splits:
        train, test = found
    else:
        (classes,) = found
        first = _train_count(folder, len(classes), train_classes, left_out)
        train, test = dict(list(classes.items())[:first]), dict(list(classes.items())[first:])
    return Dataset(folder.resolve().name, _image_set(train), _image_set(test), left_out=left_out)


def _train_count(folder: Path, classes: int, asked: int | None, left_out: str) -> int:
    if classes < 2:
        raise DataError(f"{folder} has {classes} class folder with images; add more, at least two{_hint(left_out)}")
    if asked is None:
        return classes // 2
    if not 0 < asked < classes:
        raise InvalidInput(f"train_classes is {asked} but {folder} has {classes} classes; pass 1 to {classes - 1}")
    return asked


def _classes(top: Path, images: list[Path], left_out: str) -> dict[str, list[Path]]:
    """The images of each class folder, sorted by name."""
    classes: dict[str, list[Path]] = {}
    for path in images:
        if path.parent != top:
            classes.setdefault(first_part(path, top), []).append(path)
    if not classes:
        raise DataError(
            f"{top} has no class folders with images; put the images of each class in one folder{_hint(left_out)}"
        )
    return classes


def _hint(left_out: str) -> str:
    return f" ({left_out})" if left_out else ""


def _left_out(folder: Path, tops: list[Path], images: list[list[Path]], left_out: LeftOut) -> str:
    """Describes in one line which content of the folder is not in the data set."""
    loose = sum(path.parent == top for top, found in zip(tops, images, strict=True) for path in found)
    parts = [str(left_out)]
    if loose:
        parts.append(f"images in no class folder: {loose:,}")
    if tops != [folder]:
        beside = [name for name in sorted(os.listdir(folder)) if name not in SPLITS and not is_litter(name)]
        others = listing(name for name in beside if os.path.isdir(folder / name))
        parts += [f"folders beside train/ and test/: {others}"] if others else []
    return "; ".join(part for part in parts if part)


def _refuse_twice(tops: list[Path], images: list[list[Path]], left_out: LeftOut) -> None:
    """Refuses images that links include twice, in two classes or in one."""
    for path, first in left_out.again.items():
        if path in tops or path.parent in tops:
            raise DataError(
                f"{path} is a link to {first}, so its images would be in the set twice; remove one of the two"
            )
    paths = [path for found in images for path in found]
    if repeat := first_repeat(paths):
        first, path = (paths[position] for position in repeat)
        raise DataError(f"{path} is the same file as {first} and would be in the set twice; remove one of the two")


def _image_set(classes: dict[str, list[Path]]) -> ImageSet:
    return image_files(
        [path for images in classes.values() for path in images],
        [name for name, images in classes.items() for _ in images],
    )
