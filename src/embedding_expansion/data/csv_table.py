"""A data set listed in a CSV file, with the columns that Open Metric Learning uses.

| column       | value                                                                                       |
|--------------|---------------------------------------------------------------------------------------------|
| `path`       | an image file; a relative path starts at the CSV's folder                                   |
| `label`      | the class: any whole number or text                                                         |
| `split`      | `train`, `validation` (or `test`)                                                           |
| `is_query`   | of validation rows: whether the image is searched for; `True`/`False`, `1`/`0`              |
| `is_gallery` | of validation rows: whether it is searched in                                               |

The reader is `table.Table`, so the fields may be separated by commas, semicolons or tabs. An image is listed once.
`is_query` and `is_gallery` may be left out or left empty; each validation image then searches among all others. So it
does where every row is both. Columns of boxes (`x_1`, ...) are refused unless empty, since nothing here crops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from embedding_expansion.data.images import Dataset, ImageSet, image_files
from embedding_expansion.data.official import is_whole_number
from embedding_expansion.data.repeats import first_repeat
from embedding_expansion.data.table import NO_LABEL, Table, TableRow
from embedding_expansion.errors import DataError

_REQUIRED = ("path", "label", "split")
_BOX = ("x_1", "y_1", "x_2", "y_2")
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}
_EMPTY = {"", "nan", "none"}


@dataclass(frozen=True)
class _Image:
    """What a row says."""

    line: int
    path: Path
    label: str
    is_train: bool
    is_query: bool | None
    is_gallery: bool | None

    def __str__(self) -> str:
        return f"line {self.line} ({'train' if self.is_train else 'validation'}, label {self.label})"


def open_csv(path: Path) -> Dataset:
    """Open such a CSV file.

    Raises:
        DataError: if the file cannot be read, a column is missing, a row is wrong, or an image is listed twice (the
            lines are named), or a side has no rows.
    """
    table = Table.read(path, _REQUIRED)
    images = [_image(f"line {row.line} of {path}", path.parent, row) for row in table.rows]
    if repeat := first_repeat(image.path for image in images):
        first, second = (images[position] for position in repeat)
        raise DataError(f"{path} lists the image {second.path} twice, in {first} and {second}; remove one of the lines")
    train, validation = [image for image in images if image.is_train], [image for image in images if not image.is_train]
    if not train or not validation:
        raise DataError(f"{path} has {len(train)} train and {len(validation)} validation rows; both sides are needed")
    return Dataset(path.stem, _image_set(train), _with_marks(_image_set(validation), validation))


def _image(where: str, folder: Path, row: TableRow) -> _Image:
    def field(name: str) -> str:
        return row.fields.get(name, "")

    for name in _REQUIRED:
        if not field(name):
            raise DataError(f"{where} has no {name}; fill it in or remove the line")
    if field("label").lower() in NO_LABEL:
        raise DataError(
            f"{where} has the label {field('label')!r}, which stands for none; fill it in, call the class something "
            "else, or remove the line"
        )
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
    return _Image(row.line, folder / field("path"), field("label"), is_train, marks[0], marks[1])


def _mark(where: str, name: str, value: str) -> bool | None:
    value = value.lower()
    if value in _EMPTY:
        return None
    if value not in _YES | _NO:
        raise DataError(f"{where} has {name} {value!r}; True, False or nothing is expected")
    return value in _YES


def _image_set(listed: list[_Image]) -> ImageSet:
    """Classes in the order of their labels: as numbers if all are, otherwise as text."""
    labels = [image.label for image in listed]
    numeric = all(is_whole_number(label) for label in labels)
    return image_files([image.path for image in listed], [int(label) for label in labels] if numeric else labels)


def _with_marks(images: ImageSet, listed: list[_Image]) -> ImageSet:
    marks = [(image.is_query, image.is_gallery) for image in listed]
    if all(mark == (None, None) for mark in marks) or all(mark == (True, True) for mark in marks):
        return images
    undecided = next((image for image in listed if None in (image.is_query, image.is_gallery)), None)
    if undecided is not None:
        raise DataError(
            f"in line {undecided.line} the validation image {undecided.path} lacks is_query or is_gallery, others have "
            "them; fill both in, or leave both columns empty everywhere"
        )
    is_query, is_gallery = (np.array(column, dtype=np.bool_) for column in zip(*marks, strict=True))
    return replace(images, is_query=is_query, is_gallery=is_gallery)
