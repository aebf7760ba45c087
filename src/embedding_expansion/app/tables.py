"""Tables and names as the commands print them, and tables as they write them."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

#: What `write_csv` does, for the help of a command.
MARKED = "text that begins with = + - @ has an apostrophe before it, so that no spreadsheet runs it as a formula"


def plain(text: str) -> str:
    r"""A text on one line that a terminal shows and does not obey: signs that are not printable as \n or \x1b."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Columns with two spaces between them.

    Args:
        heads: of the columns.
        rows: of as many entries each; shown by `plain`.
        right: which columns are set to the right.
    """
    lines = [[plain(entry) for entry in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            entry.rjust(width) if column in right else entry.ljust(width)
            for column, (entry, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_csv(path: Path, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table in UTF-8, its text by `data.spreadsheet.marked`.

    Args:
        path: of the file.
        heads: of the columns.
        rows: of as many entries each: text, numbers (decimal ones with six places), booleans, or None, which is empty.
    """
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        writer.writerows([_field(entry) for entry in row] for row in rows)


def _field(entry: object) -> str:
    from embedding_expansion.data.table import escape_formula

    if entry is None:
        return ""
    if isinstance(entry, bool):
        return str(entry).lower()
    if isinstance(entry, str):
        return escape_formula(entry)
    return f"{entry:.6f}" if isinstance(entry, float) else str(entry)


def count(number: int, noun: str) -> str:
    """How many of what, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
