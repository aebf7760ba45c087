"""CARS196: 196 models of cars; the first 98 train, the last 98 test, unlike in the official classification split.

Three layouts are supported:

- `car_ims/` with `cars_annos.mat`;
- `cars_train/` and `cars_test/` with the devkit's `cars_meta.mat`, `cars_train_annos.mat` and
  `cars_test_annos_withlabels.mat`, in `devkit/` or beside the folders;
- `images/` with folders `NNN.Name`, and `labels.txt` with `<path> <class>` per line, where the class is the number of
  the folder: the official train half, cropped to its boxes. It is always a part of the set.

The .mat files have version 5 of the format, see `matlab`.
"""

from __future__ import annotations

import os
import re
from numbers import Real
from pathlib import Path
from typing import TypeAlias

from embedding_expansion.data.images import Dataset, image_files
from embedding_expansion.data.matlab import Value, read_mat
from embedding_expansion.data.official import (
    DatasetCounts,
    SplitCounts,
    count_split,
    is_whole_number,
    name_of,
    present,
    read_table,
)
from embedding_expansion.errors import DataError

EXPECTED = DatasetCounts(train=SplitCounts(98, 8_054), test=SplitCounts(98, 8_131))
#: The counts of the official train half.
TRAIN_HALF = DatasetCounts(train=SplitCounts(98, 4_052), test=SplitCounts(98, 4_092))
#: The folders of a root in which the set is searched for.
FOLDERS = ("CARS196", "cars196", "cars", "stanford_cars", "cars196_bbox_trainhalf", ".")
_LAST_TRAIN_CLASS, _LAST_CLASS = 98, 196
_CLASS_FOLDER = re.compile(r"(\d{3})\..+")


def is_cars(folder: Path) -> bool:
    """Whether a folder has one of the three layouts."""
    lists = (folder / "cars_annos.mat", _devkit(folder) / "cars_train_annos.mat")
    return any(path.exists() for path in lists) or _is_cropped(folder)


def open_cars(
    folder: Path, part: bool, expected: DatasetCounts = EXPECTED, train_half: DatasetCounts = TRAIN_HALF
) -> Dataset:
    """Opens a folder with one of the three layouts.

    Raises:
        DataError: a list is broken, images are missing, or the counts are not the official ones and `part` is False.
    """
    if (folder / "cars_annos.mat").exists():
        listed, names = _one_folder(folder)
    elif (_devkit(folder) / "cars_train_annos.mat").exists():
        listed, names = _two_folders(folder)
    else:
        listed, names = _cropped(folder)
    there = present(folder, [file for _, file in listed], part)
    listed = [(label, file) for label, file in listed if file in there]
    train, test = (
        image_files([folder / file for _, file in split], [label for label, _ in split], names)
        for split in (
            [pair for pair in listed if pair[0] <= _LAST_TRAIN_CLASS],
            [pair for pair in listed if pair[0] > _LAST_TRAIN_CLASS],
        )
    )
    found = DatasetCounts(count_split(train), count_split(test))
    half = _is_cropped(folder) and found == train_half
    part_name = "CARS196-half (part of CARS196: the official train half, cropped)" if half else None
    return Dataset(name_of("CARS196", found, expected, part, part_name), train, test)


def _is_cropped(folder: Path) -> bool:
    """Whether the folders of images/ are classes of cars and the first line of labels.txt agrees with its folder."""
    try:
        with (folder / "labels.txt").open(encoding="utf-8") as file, os.scandir(folder / "images") as entries:
            file_name, _, label = file.readline().strip().rpartition(" ")
            named = all(_class_of(entry.name) for entry in entries if entry.is_dir())
    except (OSError, UnicodeDecodeError):
        return False
    return named and is_whole_number(label) and _class_of(file_name.partition("/")[0]) == int(label)


def _class_of(name: str) -> int | None:
    """The number in the name `NNN.Name` of a folder; None if it does not name a class of the set."""
    match = _CLASS_FOLDER.fullmatch(name)
    number = int(match[1]) if match else 0
    return number if 1 <= number <= _LAST_CLASS else None


def _cropped(folder: Path) -> tuple[list[tuple[int, str]], dict[int, str]]:
    listed, names = [], {}
    for file, label in read_table(folder / "labels.txt", 2, numbers=(1,), unique=(0,)):
        name = file.partition("/")[0]
        if _class_of(name) != int(label):
            raise DataError(
                f"{folder / 'labels.txt'} gives {file} the class {label}, but the class must be the number, 1 to "
                f"{_LAST_CLASS}, at the start of its folder's name; unpack the set again"
            )
        listed.append((int(label), f"images/{file}"))
        names[int(label)] = name
    return listed, names


def _devkit(folder: Path) -> Path:
    return folder / "devkit" if (folder / "devkit").is_dir() else folder


def _one_folder(folder: Path) -> tuple[list[tuple[int, str]], dict[int, str]]:
    content = _read_mat(folder / "cars_annos.mat", "annotations", "class_names")
    listed = _fields(folder / "cars_annos.mat", content["annotations"], "relative_im_path")
    return listed, _class_names(folder / "cars_annos.mat", content["class_names"])


def _two_folders(folder: Path) -> tuple[list[tuple[int, str]], dict[int, str]]:
    devkit = _devkit(folder)
    with_labels = "cars_test_annos_withlabels.mat"
    test_list = devkit / with_labels if (devkit / with_labels).exists() else folder / with_labels
    if not test_list.exists():
        raise DataError(
            f"{devkit} lacks {with_labels}, which has the classes of the test half; put it beside cars_train_annos.mat"
        )
    listed = []
    for split, path in (("cars_train", devkit / "cars_train_annos.mat"), ("cars_test", test_list)):
        annotated = _fields(path, _read_mat(path, "annotations")["annotations"], "fname")
        listed += [(label, f"{split}/{file}") for label, file in annotated]
    meta = devkit / "cars_meta.mat"
    return listed, _class_names(meta, _read_mat(meta, "class_names")["class_names"])


_Variable: TypeAlias = list[Value] | dict[str, list[Value]]


def _read_mat(path: Path, *variables: str) -> dict[str, _Variable]:
    try:
        content = read_mat(path, *variables)
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path} cannot be read as a .mat file of version 5 ({error}); unpack the set again") from error
    for name in variables:
        if name not in content:
            raise DataError(f"{path} has no variable {name!r}; use the file that comes with CARS196")
    return content


def _fields(path: Path, annotations: _Variable, file_field: str) -> list[tuple[int, str]]:
    """The class and the file of each annotation."""
    fields = annotations if isinstance(annotations, dict) else {}
    missing = [field for field in (file_field, "class") if field not in fields]
    if missing:
        raise DataError(f"the annotations in {path} have no field {missing[0]!r}; use the file with the classes")
    listed: list[tuple[int, str]] = []
    for row, (label, file) in enumerate(zip(fields["class"], fields[file_field], strict=True), start=1):
        if not (isinstance(label, Real) and label in range(1, _LAST_CLASS + 1)):
            raise DataError(
                f"annotation {row} in {path} has the class {str(label)[:40]!r}, but a whole number from 1 to "
                f"{_LAST_CLASS} is expected; unpack the set again"
            )
        if not (isinstance(file, str) and file and "\0" not in file):
            raise DataError(
                f"annotation {row} in {path} has the file {str(file)[:40]!r}, but a file name is expected; unpack the "
                "set again"
            )
        listed.append((int(label), file))
    rows: dict[str, int] = {}
    for row, (_, file) in enumerate(listed, start=1):
        before = rows.setdefault(file, row)
        if before != row:
            raise DataError(f"{path} names {file[:80]} twice, in annotations {before} and {row}; unpack the set again")
    return listed


def _class_names(path: Path, names: _Variable) -> dict[int, str]:
    """The names of the classes by their number."""
    if len(names) != _LAST_CLASS:
        raise DataError(
            f"class_names in {path} has {len(names)} names, but {_LAST_CLASS} are expected; unpack the set again"
        )
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"class_names in {path} has entries that are not texts; unpack the set again")
    return {number: str(name) for number, name in enumerate(names, start=1)}
