"""What the official data sets have in common: counts that are checked on opening, and how a part is named."""

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
    "ask for it with part=True (on the command line: --part for embex data ... check, --data.part true for embex train)"
)


@dataclass(frozen=True)
class SplitCounts:
    """How many classes and images one side has; queries and gallery images where they are marked."""

    classes: int
    images: int
    queries: int | None = None
    gallery: int | None = None

    def __str__(self) -> str:
        marks = "" if self.queries is None else f" ({self.queries:,} query, {self.gallery:,} gallery)"
        return f"{self.classes:,} classes with {self.images:,} images{marks}"


@dataclass(frozen=True)
class DatasetCounts:
    """The official counts of a set."""

    train: SplitCounts
    test: SplitCounts


def count_split(images: ImageSet) -> SplitCounts:
    """The counts of an opened side."""
    queries = None if images.is_query is None else int(np.count_nonzero(images.is_query))
    gallery = None if images.is_gallery is None else int(np.count_nonzero(images.is_gallery))
    return SplitCounts(len(images.classes), len(images), queries, gallery)


def name_of(name: str, found: DatasetCounts, expected: DatasetCounts, part: bool, part_name: str | None = None) -> str:
    """The name under which a set's results are printed: its own if it is whole, otherwise one that says it is a part.

    Args:
        name: of the whole set.
        found: what is there.
        expected: what the whole set has.
        part: whether the user asked for a part.
        part_name: what to call a part; by default the name and how much of it there is.

    Raises:
        DataError: if the counts differ and no part was asked for.
    """
    if found == expected:
        return name
    if not part:
        raise DataError(
            f"this is not the whole of {name}: found train {found.train}, test {found.test}; expected train "
            f"{expected.train}, test {expected.test}. To use a part of the set, with results named as those of a part, "
            f"{_ASK_FOR_PART}"
        )
    have, whole = (
        (side.train.images + side.test.images, side.train.classes + side.test.classes) for side in (found, expected)
    )
    return part_name or (
        f"{name}-part (part of {name}: {have[0]:,} of {whole[0]:,} images, {have[1]:,} of {whole[1]:,} classes)"
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a list that comes with a data set.

    Raises:
        DataError: if the file cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); unpack the data set again") from error


def is_whole_number(text: str) -> bool:
    """Whether `int(text)` works and fits into 64 bits."""
    return _WHOLE_NUMBER.fullmatch(text) is not None


def read_table(
    path: Path, columns: int, *, skip: int = 0, numbers: tuple[int, ...] = (), unique: tuple[int, ...] = ()
) -> list[list[str]]:
    """The lines of such a list, split at blanks into exactly `columns` fields (blanks in the last one stay).

    Args:
        path: the list; empty lines are passed over.
        columns: how many fields a line has.
        skip: how many lines are a header.
        numbers: the columns, from 0, whose fields are sure to be whole numbers, so that `int` can be applied to them.
        unique: the columns, from 0, in which no field stands twice, such as the images'.

    Raises:
        DataError: if a line has fewer fields, something else where a number belongs, or names again what is to be named
            once; names it.
    """
    rows = []
    lines: dict[tuple[int, str], int] = {}
    for number, line in enumerate(read_lines(path)[skip:], start=skip + 1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=columns - 1)
        if len(fields) != columns:
            raise DataError(f"line {number} of {path} has {len(fields)} fields, {columns} expected: {line[:80]!r}")
        for column in numbers:
            if not is_whole_number(fields[column].strip()):
                raise DataError(
                    f"line {number} of {path} has {fields[column].strip()[:40]!r} as field {column + 1}, where a whole "
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
    """Refuses a set whose lists put an image on both sides.

    Raises:
        DataError: there is such an image; names it.
    """
    shared = sorted(set(train) & set(test))
    if shared:
        raise DataError(
            f"{name} has {len(shared):,} images twice, on both sides, train and test, the first is {shared[0]}; unpack "
            "the data set again"
        )


def present(folder: Path, names: Iterable[str], part: bool) -> set[str]:
    """Which of the listed files (paths below `folder`, with slashes) are there.

    Raises:
        DataError: if some are missing and no part was asked for, or all are; or a folder cannot be read.
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
            f"unpack the set again, or, if a part is what you have, {_ASK_FOR_PART}"
        )
    return there.intersection(names)
