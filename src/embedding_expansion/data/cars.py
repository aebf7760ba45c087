"""CARS196: 196 models of cars; the first 98 train, the last 98 test, whatever the official classification split says.

Three layouts are read:

- `car_ims/` with `cars_annos.mat`;
- `cars_train/` and `cars_test/` with the devkit's `cars_meta.mat`, `cars_train_annos.mat` and
  `cars_test_annos_withlabels.mat`, in `devkit/` or beside the folders;
- `images/` with `labels.txt` (`<path> <class>` per line): the official train half, cropped to its boxes; always a part.

The .mat files hold arrays (version 5 of the format); nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from embedding_expansion.data.images import Dataset, image_files
from embedding_expansion.data.official import Expected, Side, name_of, present, read_table, side_of
from embedding_expansion.errors import DataError

EXPECTED = Expected(train=Side(98, 8_054), test=Side(98, 8_131))
#: The images of the official train half, by side.
TRAIN_HALF = Expected(train=Side(98, 4_052), test=Side(98, 4_092))
#: Folders of a root in which the set is looked for.
FOLDERS = ("CARS196", "cars196", "cars", "stanford_cars", "cars196_bbox_trainhalf", ".")
_LAST_TRAIN_CLASS = 98


def is_cars(folder: Path) -> bool:
    """Whether one of the three layouts is here."""
    lists = (folder / "cars_annos.mat", _devkit(folder) / "cars_train_annos.mat")
    return any(path.exists() for path in lists) or _is_cropped(folder)


def open_cars(folder: Path, part: bool, expected: Expected = EXPECTED, train_half: Expected = TRAIN_HALF) -> Dataset:
    """Read whichever layout is there.

    Raises:
        DataError: if a list is broken, images are missing, or the counts are not the official ones and no part was
            asked for.
    """
    if (folder / "cars_annos.mat").exists():
        listed, names = _one_folder(folder)
    elif (_devkit(folder) / "cars_train_annos.mat").exists():
        listed, names = _two_folders(folder)
    else:
        listed = [(int(label), f"images/{file}") for file, label in read_table(folder / "labels.txt", 2)]
        names = {label: file.split("/")[1] for label, file in listed}
    there = present(folder, [file for _, file in listed], part)
    listed = [(label, file) for label, file in listed if file in there]
    train, test = (
        image_files([folder / file for _, file in side], [label for label, _ in side], names)
        for side in (
            [pair for pair in listed if pair[0] <= _LAST_TRAIN_CLASS],
            [pair for pair in listed if pair[0] > _LAST_TRAIN_CLASS],
        )
    )
    found = Expected(side_of(train), side_of(test))
    half = _is_cropped(folder) and found == train_half
    part_name = "CARS196-half (part of CARS196: the official train half, cropped)" if half else None
    return Dataset(name_of("CARS196", found, expected, part, part_name), train, test)


def _is_cropped(folder: Path) -> bool:
    return (folder / "labels.txt").exists() and (folder / "images").is_dir()


def _devkit(folder: Path) -> Path:
    return folder / "devkit" if (folder / "devkit").is_dir() else folder


def _one_folder(folder: Path) -> tuple[list[tuple[int, str]], dict[int, str]]:
    content = _read_mat(folder / "cars_annos.mat", "annotations", "class_names")
    annotations = _fields(folder / "cars_annos.mat", content["annotations"], "relative_im_path", "class")
    return [(int(label), str(file)) for file, label in annotations], _class_names(content["class_names"])


def _two_folders(folder: Path) -> tuple[list[tuple[int, str]], dict[int, str]]:
    devkit = _devkit(folder)
    with_labels = "cars_test_annos_withlabels.mat"
    test_list = devkit / with_labels if (devkit / with_labels).exists() else folder / with_labels
    if not test_list.exists():
        raise DataError(
            f"{devkit} lacks {with_labels}: the cars of the test half have their classes in it only; put it "
            "beside cars_train_annos.mat"
        )
    listed = []
    for side, path in (("cars_train", devkit / "cars_train_annos.mat"), ("cars_test", test_list)):
        annotations = _fields(path, _read_mat(path, "annotations")["annotations"], "fname", "class")
        listed += [(int(label), f"{side}/{file}") for file, label in annotations]
    return listed, _class_names(_read_mat(devkit / "cars_meta.mat", "class_names")["class_names"])


def _read_mat(path: Path, *variables: str) -> dict[str, npt.NDArray[Any]]:
    try:
        content: dict[str, Any] = loadmat(str(path), squeeze_me=True, variable_names=list(variables))  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise DataError(f"{path} cannot be read as a .mat file of version 5 ({error}); unpack the set again") from error
    for name in variables:
        if name not in content:
            raise DataError(f"{path} has no variable {name!r}; it is not the list that comes with CARS196")
    return {name: np.atleast_1d(content[name]) for name in variables}


def _fields(path: Path, annotations: npt.NDArray[Any], *fields: str) -> list[tuple[Any, ...]]:
    missing = [field for field in fields if field not in (annotations.dtype.names or ())]
    if missing:
        raise DataError(f"the annotations in {path} have no field {missing[0]!r}; it is not the list with the classes")
    return list(zip(*(annotations[field].tolist() for field in fields), strict=True))


def _class_names(names: npt.NDArray[Any]) -> dict[int, str]:
    return {number: str(name) for number, name in enumerate(names.tolist(), start=1)}
