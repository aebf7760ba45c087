"""Where the labels of indexed images come from: the folders they lie in, a table, or nowhere."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from embedding_expansion.data.finding import ImageFile
from embedding_expansion.data.spreadsheet import unmarked
from embedding_expansion.errors import DataError, InvalidInput

#: What is known of an image's file; no table can say otherwise.
OWN = ("width", "height", "bytes", "mtime")

#: Path -> label and metadata of an image.
Facts: TypeAlias = tuple[str | None, Mapping[str, Any]]


@dataclass(frozen=True)
class Labels:
    """What there is to say of each image.

    Attributes:
        name: "folder", "none" or "table".
        rows: of a table: the absolute path of an image -> its label and metadata.
        digest: of a table: tells whether two are the same.
    """

    name: str
    rows: Mapping[str, Facts] = field(default_factory=dict)
    digest: str = ""

    def of(self, path: str, folder: str | None) -> Facts:
        """The label and metadata of an image.

        Args:
            path: absolute.
            folder: the name of its folder, as in `ImageFile`.
        """
        if self.name == "folder":
            return folder, {}
        return self.rows.get(path, (None, {}))

    def check(self, files: Iterable[ImageFile]) -> tuple[int, list[str]]:
        """Compares a table with the images.

        Returns:
            How many images it has no row for, and the paths of rows that are no image of these.

        Raises:
            DataError: it names none of the images.
        """
        if self.name != "table":
            return 0, []
        paths = {os.path.abspath(file.path) for file in files}
        foreign = [path for path in self.rows if path not in paths]
        if len(foreign) == len(self.rows):
            raise DataError(
                f"none of {len(self.rows)} paths in the table is an image that was named, the first is "
                f"{next(iter(self.rows), 'missing')}; relative paths start at the folder of the table"
            )
        return len(paths) - (len(self.rows) - len(foreign)), foreign


def read_labels(given: str) -> Labels:
    """Reads what `--labels` names.

    Args:
        given: "folder", "none", or a CSV file with the columns `path` (relative ones start at the CSV's folder) and
            `label` (empty: no label); its other columns are metadata, whole and decimal numbers as numbers, empty
            fields left out. Columns called `width`, `height`, `bytes` or `mtime` are not read.

    Raises:
        DataError: the file cannot be read, lacks a column, or names an image twice or not at all.
        InvalidInput: it is none of the three.
    """
    if given in ("folder", "none"):
        return Labels(given)
    path = Path(given)
    if path.suffix.lower() != ".csv":
        raise InvalidInput(f"labels is {given!r}; pass folder, none, or a .csv file with the columns path and label")
    try:
        content = path.read_bytes()
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
        return Labels("table", _rows(path, csv.DictReader(text, strict=True)), hashlib.sha256(content).hexdigest())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file in UTF-8 ({error}); name another --labels") from error


def _rows(path: Path, reader: csv.DictReader[str]) -> dict[str, Facts]:
    columns = reader.fieldnames or ()
    for column in ("path", "label"):
        if column not in columns:
            raise DataError(f"{path} has no column {column!r}; its first line must name path, label and any others")
    rows = dict[str, Facts]()
    for entries in reader:
        where = f"line {reader.line_num} of {path}"
        if None in entries:
            raise DataError(f"{where} has more fields than the first line; quote fields that hold a comma")
        given = {name: unmarked((text or "").strip()) for name, text in entries.items()}
        if not given["path"]:
            raise DataError(f"{where} has no path; fill it in or remove the line")
        image = os.path.abspath(path.parent / given.pop("path"))
        if image in rows:
            raise DataError(f"{where} names {image}, which a line before it has named; remove one of them")
        label = given.pop("label") or None
        rows[image] = label, {name: _value(text) for name, text in given.items() if text and name not in OWN}
    return rows


_WHOLE, _DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})"), re.compile(r"-?(0|[1-9]\d{0,14})\.\d{1,15}")


def _value(text: str) -> str | int | float:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
