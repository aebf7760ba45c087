"""Reads CSV tables in UTF-8, separated by commas, semicolons or tabs, and escapes formulas in them. Needs no torch.

Ambiguous content is refused with its line number: a misread table would give wrong classes and plausible results.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from embedding_expansion.errors import DataError

#: The file name endings of tables.
TABLE_SUFFIXES = (".csv", ".tsv")

#: What programs write for a missing label, in lower case.
NO_LABEL = frozenset({"nan", "none", "null", "<na>", "#n/a"})

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_LINE_END = re.compile(r"\r\n|\r|\n")
# A spreadsheet runs a field that begins with one of these characters as a formula. An apostrophe before it makes it
# text (OWASP, CSV Injection). Text that has such apostrophes already gets one more, so that reading restores it.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")


@dataclass(frozen=True)
class TableRow:
    """A row below the first line.

    Attributes:
        line: the number of the line in which it begins, from 1.
        fields: the fields by the names of their columns, without surrounding blanks and after `unescape_formula`.
            Columns without a name are left out.
    """

    line: int
    fields: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table that was read.

    Attributes:
        path: of the file.
        columns: the names of the columns, in the order of the first line.
        rows: the rows, at least one.
        digest: the SHA-256 of the file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    digest: str

    @staticmethod
    def read(path: Path, required: tuple[str, ...]) -> Table:
        """Reads a file.

        The separator is the first of comma, semicolon and tab with which the first line has the required columns. Blank
        lines are skipped, and so is a first column without a name, in which pandas numbers the rows.

        Args:
            path: of the file, UTF-8 with or without a byte order mark.
            required: the columns that the table must have; their fields may not contain line breaks.

        Raises:
            DataError: the file cannot be read, is not UTF-8, lacks a required column, has two columns of one name or no
                rows; or a row has another number of fields than the first line, an unclosed quote, or a field of more
                than `csv.field_size_limit()` (131,072) characters.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}); pass another file") from error
        return _Reader(path, required, _text(path, content)).table(hashlib.sha256(content).hexdigest())


def _text(path: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_of(error.object[: error.start].decode("utf-8"))
        raise DataError(
            f"line {line} of {path} is not text in UTF-8 (byte 0x{error.object[error.start]:02x}); save the table as "
            "CSV in UTF-8"
        ) from error
    if "\0" in text:
        line = _line_of(text[: text.index("\0")])
        raise DataError(f"line {line} of {path} has a NUL character; save the table as CSV in UTF-8")
    return text


def _line_of(before: str) -> int:
    """The number of the line in which a text ends."""
    return len(_LINE_END.findall(before)) + 1


class _Reader:
    """Reads one table."""

    def __init__(self, path: Path, required: tuple[str, ...], text: str) -> None:
        self.path, self.required, self.text = path, required, text
        self.delimiter = self._find_delimiter()

    def table(self, digest: str) -> Table:
        records = self._records(self.delimiter)
        _, columns = next(records)
        self._check_columns(columns)
        rows = tuple(self._row(line, columns, record) for line, record in records)
        if not rows:
            raise DataError(f"{self.path} has no rows below its first line; add at least one")
        return Table(self.path, tuple(column for column in columns if column), rows, digest)

    def _find_delimiter(self) -> str:
        """The first delimiter with which the first line has the required columns."""
        columns: dict[str, list[str]] = {}
        problems = list[DataError]()
        for delimiter in _DELIMITERS:
            try:
                _, columns[delimiter] = next(self._records(delimiter), (0, []))
            except DataError as error:  # the quotes may be right with another delimiter
                problems.append(error)
                continue
            if set(self.required) <= set(columns[delimiter]):
                return delimiter
        if not columns:
            raise problems[0]
        best = max(columns, key=lambda delimiter: len(columns[delimiter]))
        absent = next(name for name in self.required if name not in columns[best])
        shown = ", ".join(columns[best])[:80] or "nothing"
        raise DataError(
            f"{self.path} has no column {absent!r}; its first line must name {', '.join(self.required)}, separated by "
            f"commas, semicolons or tabs, but it has, separated by {_DELIMITERS[best]}s: {shown}"
        )

    def _records(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Yields each record that is not blank, with the number of the line in which it begins."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._refuse(line, delimiter, error)
            fields = [field.strip() for field in record]
            if fields not in ([], [""]):
                yield line, fields

    def _check_columns(self, columns: list[str]) -> None:
        for position, column in enumerate(columns):
            if column and column in columns[:position]:
                raise DataError(f"{self.path} has two columns called {column!r}; rename or remove one of them")

    def _row(self, line: int, columns: list[str], record: list[str]) -> TableRow:
        where = f"line {line} of {self.path}"
        if len(record) != len(columns):
            what = f"{len(record)} field{'' if len(record) == 1 else 's'}"
            raise DataError(
                f"{where} has {what}, but the first line names {len(columns)} columns; give each column a field, and "
                f"quote fields that hold a {_DELIMITERS[self.delimiter]}"
            )
        for column, text in zip(columns[1:], record[1:], strict=True):
            if text and not column:
                raise DataError(f"{where} has {text[:40]!r} in a column without a name; name it in the first line")
        fields = {column: unescape_formula(text) for column, text in zip(columns, record, strict=True) if column}
        for column in self.required:
            if _LINE_END.search(fields[column]):
                raise DataError(f"{where} has a {column} that continues in the next line; remove the line break")
        return TableRow(line, fields)

    def _refuse(self, line: int, delimiter: str, error: csv.Error) -> NoReturn:
        """Raises the error for a record that cannot be read and begins in a line."""
        opened = self._open_quote(line, delimiter)
        if opened is not None:
            raise DataError(
                f"line {opened} of {self.path} has a quote that is not closed at the end of its field; close it, and "
                "double the quotes inside quoted fields"
            ) from error
        raise DataError(f"line {line} of {self.path} cannot be read ({error}); correct it") from error

    def _open_quote(self, line: int, delimiter: str) -> int | None:
        """The line of the last quote that opens a field of the record, if that field does not end properly."""
        starts = [0, *(end.end() for end in _LINE_END.finditer(self.text))]
        record = self.text[starts[line - 1] :]
        # A field, in quotes (where a double quote means a quote) or without, and its end: a delimiter, a line end or
        # the end of the file.
        field = re.compile(
            rf'("[^"]*+(?:""[^"]*+)*+"|[^"{delimiter}\r\n][^{delimiter}\r\n]*|)({delimiter}|\r\n|\r|\n|\Z)'
        )
        position = 0
        while match := field.match(record, position):
            position = match.end()
            if match[2] != delimiter:
                return None
        return line - 1 + _line_of(record[:position])


def escape_formula(text: str) -> str:
    """Escapes a text for a CSV file, so that no spreadsheet runs it as a formula.

    Example:
        >>> escape_formula("=1+1"), escape_formula("'=1+1"), escape_formula("wren")
        ("'=1+1", "''=1+1", 'wren')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_formula(field: str) -> str:
    """Restores the text of a field that `escape_formula` escaped; other fields are unchanged.

    Example:
        >>> unescape_formula("'=1+1"), unescape_formula("=1+1"), unescape_formula("'s Gravenhage")
        ('=1+1', '=1+1', "'s Gravenhage")
    """
    return field[1:] if _ESCAPED.match(field) else field
