"""A data set listed in a CSV file, with the columns that Open Metric Learning uses.

| column       | value                                                                                       |
|--------------|---------------------------------------------------------------------------------------------|
| `path`       | an image file; a relative path starts at the CSV's folder                                   |
| `label`      | the class: any whole number or text                                                         |
| `split`      | `train`, `validation` (or `test`)                                                           |
| `is_query`   | of validation rows: whether the image is searched for; `True`/`False`, `1`/`0`              |
| `is_gallery` | of validation rows: whether it is searched in                                               |

`is_query` and `is_gallery` may be left out or left empty; each validation image then searches among all others. So it
does where every row is both. Columns of boxes (`x_1`, ...) are refused unless empty, since nothing here crops.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedding_expansion.data.images import Dataset, ImageSet, image_files
from embedding_expansion.data.official import is_whole_number
from embedding_expansion.data.spreadsheet import unmarked
from embedding_expansion.errors import DataError

_REQUIRED = ("path", "label", "split")
_BOX = ("x_1", "y_1", "x_2", "y_2")
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}
_EMPTY = {"", "nan", "none"}


@dataclass(frozen=True)
class _Row:
    path: Path
    label: str
    is_train: bool
    is_query: bool | None
    is_gallery: bool | None


def open_csv(path: Path) -> Dataset:
    """Open such a CSV file.

    Raises:
        DataError: if the file cannot be read, a column is missing, a row is wrong (its line is named), or a side has
            no rows.
    """
    rows = _read(path)
    train, validation = [row for row in rows if row.is_train], [row for row in rows if not row.is_train]
    if not train or not validation:
        raise DataError(f"{path} has {len(train)} train and {len(validation)} validation rows; both sides are needed")
    return Dataset(path.stem, _image_set(train), _with_marks(_image_set(validation), validation))


def _read(path: Path) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in _REQUIRED if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}; its first line must name {', '.join(_REQUIRED)}")
            return [_row(f"line {reader.line_num} of {path}", path.parent, fields) for fields in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file in UTF-8 ({error})") from error


def _row(where: str, folder: Path, fields: dict[str, str | None]) -> _Row:
    def field(name: str) -> str:
        return unmarked((fields.get(name) or "").strip())

    for name in _REQUIRED:
        if not field(name):
            raise DataError(f"{where} has no {name}; fill it in or remove the line")
    if field("split") not in ("train", "validation", "test"):
        raise DataError(f"{where} has the split {field('split')!r}; train, validation or test is expected")
    if any(field(name).lower() not in _EMPTY for name in _BOX):
        raise DataError(f"{where} has a box ({', '.join(_BOX)}), and boxes are not applied; crop the images instead")
    is_train = field("split") == "train"
    marks = [_mark(where, name, field(name)) for name in ("is_query", "is_gallery")]
    if is_train and any(marks):
        raise DataError(f"{where} is a train row with is_query or is_gallery set; only validation rows can have them")
    if not is_train and marks == [False, False]:
        raise DataError(f"{where} is neither query nor gallery; set one of them, or leave both columns empty")
    return _Row(folder / field("path"), field("label"), is_train, marks[0], marks[1])


def _mark(where: str, name: str, value: str) -> bool | None:
    value = value.lower()
    if value in _EMPTY:
        return None
    if value not in _YES | _NO:
        raise DataError(f"{where} has {name} {value!r}; True, False or nothing is expected")
    return value in _YES


def _image_set(rows: list[_Row]) -> ImageSet:
    """Classes in the order of their labels: as numbers if all are, otherwise as text."""
    labels = [row.label for row in rows]
    numeric = all(is_whole_number(label) for label in labels)
    return image_files([row.path for row in rows], [int(label) for label in labels] if numeric else labels)


def _with_marks(images: ImageSet, rows: list[_Row]) -> ImageSet:
    marks = [(row.is_query, row.is_gallery) for row in rows]
    if all(mark == (None, None) for mark in marks) or all(mark == (True, True) for mark in marks):
        return images
    undecided = next((row for row in rows if row.is_query is None or row.is_gallery is None), None)
    if undecided is not None:
        raise DataError(
            f"the validation image {undecided.path} lacks is_query or is_gallery, others have them; fill both in, or "
            "leave both columns empty everywhere"
        )
    is_query, is_gallery = (np.array(column, dtype=np.bool_) for column in zip(*marks, strict=True))
    return replace(images, is_query=is_query, is_gallery=is_gallery)
