"""What the official data sets share: counts that are checked on opening, names of parts, and reading their lists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.walking import unreadable
from embedding_expansion.errors import DataError

_WHOLE_NUMBER = re.compile(r"-?\d{1,18}")
_ASK_FOR_PART = (
    "pass part=True (on the command line: --part for embex data ... check, --data.part true for embex train)"
)


@dataclass(frozen=True)
class SplitCounts:
    """The numbers of classes and images of one split, and of queries and gallery images if these are marked."""

    classes: int
    images: int
    queries: int | None = None
    gallery: int | None = None

    def __str__(self) -> str:
        marks = "" if self.queries is None else f" ({self.queries:,} query, {self.gallery:,} gallery)"
        return f"{self.classes:,} classes with {self.images:,} images{marks}"


@dataclass(frozen=True)
class DatasetCounts:
    """The counts of both splits of a set."""

    train: SplitCounts
    test: SplitCounts


def count_split(images: ImageSet) -> SplitCounts:
    """Counts the classes and images of an opened split."""
    queries = None if images.is_query is None else int(np.count_nonzero(images.is_query))
    gallery = None if images.is_gallery is None else int(np.count_nonzero(images.is_gallery))
    return SplitCounts(len(images.classes), len(images), queries, gallery)


def name_of(name: str, found: DatasetCounts, expected: DatasetCounts, part: bool, part_name: str | None = None) -> str:
    """The name of a set in outputs, which says if it is only a part of the set.

    Args:
        name: of the whole set.
        found: the counts of what was found.
        expected: the counts of the whole set.
        part: whether a part is accepted.
        part_name: the name of a part; by default the name of the set with the counts of the part.

    Raises:
        DataError: the counts differ and `part` is False.
    """
    if found == expected:
        return name
    if not part:
        raise DataError(
            f"{name} is not complete: train has {found.train}, test has {found.test}, but train {expected.train} and "
            f"test {expected.test} are expected; to use a part of the set, whose results are named as such, "
            f"{_ASK_FOR_PART}"
        )
    have, whole = (
        (counts.train.images + counts.test.images, counts.train.classes + counts.test.classes)
        for counts in (found, expected)
    )
    return part_name or (
        f"{name}-part (part of {name}: {have[0]:,} of {whole[0]:,} images, {have[1]:,} of {whole[1]:,} classes)"
    )


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a list that comes with a data set.

    Raises:
        DataError: the file cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); unpack the data set again") from error


def is_whole_number(text: str) -> bool:
    """Whether a text is a whole number that fits into 64 bits."""
    return _WHOLE_NUMBER.fullmatch(text) is not None


def read_table(
    path: Path, columns: int, *, skip: int = 0, numbers: tuple[int, ...] = (), unique: tuple[int, ...] = ()
) -> list[list[str]]:
    """Reads a list that comes with a data set, with each line split at blanks into fields.

    Args:
        path: the list; empty lines are skipped.
        columns: the number of fields of a line. Blanks in the last field are kept.
        skip: the number of header lines.
        numbers: the columns, from 0, that must hold whole numbers.
        unique: the columns, from 0, whose fields must differ, such as the image files.

    Raises:
        DataError: a line has fewer fields, a field that is not a number but must be, or a field that must differ from
            an earlier one. The message names the line.
    """
    rows = []
    lines: dict[tuple[int, str], int] = {}
    for number, line in enumerate(read_lines(path)[skip:], start=skip + 1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=columns - 1)
        if len(fields) != columns:
            raise DataError(
                f"line {number} of {path} has {len(fields)} fields instead of {columns} ({line[:80]!r}); unpack the "
                "data set again"
            )
        for column in numbers:
            if not is_whole_number(fields[column].strip()):
                raise DataError(
                    f"line {number} of {path} has {fields[column].strip()[:40]!r} as field {column + 1}, but a whole "
                    "number is expected; unpack the data set again"
                )
        rows.append([field.strip() for field in fields])
        for column in unique:
            before = lines.setdefault((column, rows[-1][column]), number)
            if before != number:
                raise DataError(
                    f"{path} names {rows[-1][column][:80]} twice, in line {before} and line {number}; unpack the data "
                    "set again"
                )
    return rows


def refuse_shared(name: str, train: Iterable[Path], test: Iterable[Path]) -> None:
    """Refuses a set whose lists put an image into both splits.

    Raises:
        DataError: there is such an image. The message names it.
    """
    shared = sorted(set(train) & set(test))
    if shared:
        raise DataError(
            f"{name} has {len(shared):,} images in both train and test, the first is {shared[0]}; unpack the data set "
            "again"
        )


def present(folder: Path, names: Iterable[str], part: bool) -> set[str]:
    """The listed files (paths below `folder`, with slashes) that exist.

    Raises:
        DataError: all files are missing, some are missing and `part` is False, or a folder cannot be read.
    """
    names = list(names)
    parents = sorted({name.rpartition("/")[0] for name in names})
    there: set[str] = set()
    problems: dict[Path, OSError] = {}
    for parent in parents:  # one listing per folder: far cheaper than asking for every file
        try:
            with os.scandir(folder / parent) as entries:
                there.update(f"{parent}/{entry.name}" if parent else entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems[folder / parent] = error
    if problems:
        raise unreadable(problems)
    missing = [name for name in names if name not in there]
    if missing and (not part or len(missing) == len(names)):
        raise DataError(
            f"{len(missing):,} of the {len(names):,} listed images are not in {folder}, the first is {missing[0]}; "
            f"unpack the set again, or, to use the part that you have, {_ASK_FOR_PART}"
        )
    return there.intersection(names)
