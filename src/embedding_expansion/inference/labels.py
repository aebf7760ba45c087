"""The labels of indexed images: from their folders, from a table, or none."""

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

#: Metadata that comes from the image file. A table cannot override it.
OWN = ("width", "height", "bytes", "mtime")

#: Path -> label and metadata of an image.
Facts: TypeAlias = tuple[str | None, Mapping[str, Any]]


@dataclass(frozen=True)
class Labels:
    """The labels and metadata of images.

    Attributes:
        name: "folder", "none" or "table".
        rows: for a table: the absolute path of an image -> its label and metadata.
        digest: for a table: the digest of its content.
    """

    name: str
    rows: Mapping[str, Facts] = field(default_factory=dict)
    digest: str = ""

    def of(self, path: str, folder: str | None) -> Facts:
        """Returns the label and metadata of an image.

        Args:
            path: its absolute path.
            folder: the name of its folder, as in `ImageFile`.
        """
        if self.name == "folder":
            return folder, {}
        return self.rows.get(path, (None, {}))

    def check(self, files: Iterable[ImageFile]) -> tuple[int, list[str]]:
        """Compares a table with the images.

        Returns:
            The number of images without a row, and the paths of rows that match none of the images.

        Raises:
            DataError: the table contains none of the images.
        """
        if self.name != "table":
            return 0, []
        paths = {os.path.abspath(file.path) for file in files}
        foreign = [path for path in self.rows if path not in paths]
        if len(foreign) == len(self.rows):
            raise DataError(
                f"none of the {len(self.rows)} paths in the table is one of the images, the first is "
                f"{next(iter(self.rows), 'missing')}; make paths absolute or relative to the folder of the table"
            )
        return len(paths) - (len(self.rows) - len(foreign)), foreign


def read_labels(given: str) -> Labels:
    """Reads the value of `--labels`.

    Args:
        given: "folder", "none", or a table (see `table.Table.read`) with the columns `path` (absolute, or relative to
            the folder of the table) and `label` (empty for none). All other columns are metadata: integers and decimal
            numbers become numbers, and empty fields are skipped. The columns `width`, `height`, `bytes` and `mtime` are
            ignored.

    Raises:
        DataError: the file cannot be read, lacks a column, has an invalid row, or lists an image twice.
        InvalidInput: `given` is none of the three.
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
                f"{where} has the label {label!r}, which means no label; leave the field empty, or rename the class"
            )
        image = os.path.abspath(table.path.parent / name)
        if image in lines:
            raise DataError(
                f"{table.path} lists the image {image} twice, in lines {lines[image]} and {row.line}; remove one "
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
