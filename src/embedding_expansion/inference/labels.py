"""Where the labels of indexed images come from: the folders they lie in, a table, or nowhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from embedding_expansion.data.finding import ImageFile
from embedding_expansion.data.table import NO_LABEL, TABLE_SUFFIXES, Table
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
        given: "folder", "none", or a table (see `table.Table.read`) with the columns `path` (relative ones start at
            the table's folder) and `label` (empty: no label); its other columns are metadata, whole and decimal
            numbers as numbers, empty fields left out. Columns called `width`, `height`, `bytes` or `mtime` are not
            read.

    Raises:
        DataError: the file cannot be read, lacks a column, has a wrong row, or names an image twice or not at all.
        InvalidInput: it is none of the three.
    """
    if given in ("folder", "none"):
        return Labels(given)
    path = Path(given)
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InvalidInput(
            f"labels is {given!r}; pass folder, none, or a .csv or .tsv file with the columns path and label"
        )
    table = Table.read(path, ("path", "label"))
    return Labels("table", _facts(table), table.digest)


def _facts(table: Table) -> dict[str, Facts]:
    facts, lines = dict[str, Facts](), dict[str, int]()
    for row in table.rows:
        where, fields = f"line {row.line} of {table.path}", dict(row.fields)
        name, label = fields.pop("path"), fields.pop("label")
        if not name:
            raise DataError(f"{where} has no path; fill it in or remove the line")
        if label.lower() in NO_LABEL:
            raise DataError(
                f"{where} has the label {label!r}, which stands for none; leave it empty where there is none, or call "
                "the class something else"
            )
        image = os.path.abspath(table.path.parent / name)
        if image in lines:
            raise DataError(
                f"{table.path} lists the image {image} twice, in line {lines[image]} and line {row.line}; remove one "
                "of the lines"
            )
        lines[image] = row.line
        facts[image] = label or None, {key: _value(text) for key, text in fields.items() if text and key not in OWN}
    return facts


_WHOLE, _DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})"), re.compile(r"-?(0|[1-9]\d{0,14})\.\d{1,15}")


def _value(text: str) -> str | int | float:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
