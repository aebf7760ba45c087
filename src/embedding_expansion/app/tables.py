"""Formats tables and names for the terminal, and writes tables as CSV."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

#: Describes `write_csv` in help texts.
MARKED = "text that starts with = + - @ gets a leading apostrophe, so that spreadsheets do not run it as a formula"


def plain(text: str) -> str:
    r"""Makes a text safe to print on one line: unprintable characters become escapes such as \n or \x1b."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Formats a table with two spaces between its columns.

    Args:
        heads: the column titles.
        rows: the rows, with one entry per column; `plain` makes them printable.
        right: indices of the right-aligned columns.
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
    """Writes a CSV file in UTF-8. `data.table.escape_formula` protects text that spreadsheets take for formulas.

    Args:
        path: the file to write.
        heads: the column titles.
        rows: the rows, with one entry per column: text, integers, floats (written with six decimals), booleans, or
            None for an empty field.
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
    """A count with its noun, such as "1 image" or "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
