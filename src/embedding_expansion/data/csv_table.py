"""A data set listed in a CSV file, with the columns that Open Metric Learning uses.

| column       | value                                                                                       |
|--------------|---------------------------------------------------------------------------------------------|
| `path`       | an image file; a relative path starts at the folder of the CSV file                         |
| `label`      | the class: any whole number or text                                                         |
| `split`      | `train`, or `validation` (or `test`)                                                        |
| `is_query`   | for validation rows: whether the image is a query; `True`/`False`, `1`/`0`                  |
| `is_gallery` | for validation rows: whether the image is in the gallery                                    |

`table.Table` reads the file, so the fields may be separated by commas, semicolons or tabs. An image may be listed only
once. `is_query` and `is_gallery` may be missing or empty; then, and if every row is both, each validation image is
searched for among all others. Columns of boxes (`x_1`, ...) must be empty, because images are not cropped.
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
    """The checked content of a row."""

    line: int
    path: Path
    label: str
    is_train: bool
    is_query: bool | None
    is_gallery: bool | None

    def __str__(self) -> str:
        return f"line {self.line} ({'train' if self.is_train else 'validation'}, label {self.label})"


def open_csv(path: Path) -> Dataset:
    """Opens a CSV file with these columns as a data set.

    Raises:
        DataError: the file cannot be read, a column is missing, a row is wrong, an image is listed twice, or a split
            has no rows. The message names the line.
    """
    table = Table.read(path, _REQUIRED)
    images = [_image(f"line {row.line} of {path}", path.parent, row) for row in table.rows]
    if repeat := first_repeat(image.path for image in images):
        first, second = (images[position] for position in repeat)
        raise DataError(f"{path} lists the image {second.path} twice, in {first} and {second}; remove one of the lines")
    train, validation = [image for image in images if image.is_train], [image for image in images if not image.is_train]
    if not train or not validation:
        raise DataError(f"{path} has {len(train)} train and {len(validation)} validation rows; add rows of both splits")
    return Dataset(path.stem, _image_set(train), _with_marks(_image_set(validation), validation))


def _image(where: str, folder: Path, row: TableRow) -> _Image:
    def field(name: str) -> str:
        return row.fields.get(name, "")

    for name in _REQUIRED:
        if not field(name):
            raise DataError(f"{where} has no {name}; fill it in or remove the line")
    if field("label").lower() in NO_LABEL:
        raise DataError(
            f"{where} has the label {field('label')!r}, which means that there is none; fill it in, rename the class, "
            "or remove the line"
        )
    if field("split") not in ("train", "validation", "test"):
        raise DataError(f"{where} has the split {field('split')!r}; write train, validation or test")
    if any(field(name).lower() not in _EMPTY for name in _BOX):
        raise DataError(f"{where} has a box ({', '.join(_BOX)}), but images are not cropped; crop them beforehand")
    is_train = field("split") == "train"
    marks = [_mark(where, name, field(name)) for name in ("is_query", "is_gallery")]
    if is_train and any(marks):
        raise DataError(f"{where} is a train row with is_query or is_gallery set; set them in validation rows only")
    if not is_train and marks == [False, False]:
        raise DataError(f"{where} is neither query nor gallery; set one of them, or leave both columns empty")
    return _Image(row.line, folder / field("path"), field("label"), is_train, marks[0], marks[1])


def _mark(where: str, name: str, value: str) -> bool | None:
    value = value.lower()
    if value in _EMPTY:
        return None
    if value not in _YES | _NO:
        raise DataError(f"{where} has {name} {value!r}; write True or False, or leave it empty")
    return value in _YES


def _image_set(listed: list[_Image]) -> ImageSet:
    """The images as a set, with classes sorted by label: as numbers if all labels are numbers, otherwise as texts."""
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
            f"in line {undecided.line} the validation image {undecided.path} lacks is_query or is_gallery, which "
            "others have; fill both in, or leave both columns empty everywhere"
        )
    is_query, is_gallery = (np.array(column, dtype=np.bool_) for column in zip(*marks, strict=True))
    return replace(images, is_query=is_query, is_gallery=is_gallery)
