"""Reads the notes that an index keeps about itself, and reports a damaged note in one sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from embedding_expansion.checks import whole_number
from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index.kinds import KINDS

#: The most dimensions of a vector.
MOST_DIMENSIONS = 2**20
Precision: TypeAlias = Literal["float32", "float16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "float16")


def _is_whole(value: object) -> bool:
    number = whole_number(value)
    return number is not None and 0 <= number < 2**63


def _is_recall(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"value", "k", "queries"}:
        return False
    share = value["value"]
    return (
        isinstance(share, int | float) and math.isfinite(share) and all(_is_whole(value[n]) for n in ("k", "queries"))
    )


def _is_stamp(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"kind", "generation", "rows", "sha256"}
        and all(_is_whole(value[name]) for name in ("generation", "rows"))
        and all(isinstance(value[name], str) for name in ("kind", "sha256"))
    )


#: The valid values of the notes that a backend keeps itself, see `store.OWN_NOTES`.
_IS_VALID: Mapping[str, Callable[[Any], bool]] = {
    "dimensions": lambda value: _is_whole(value) and 0 < value <= MOST_DIMENSIONS,
    "asked": lambda value: isinstance(value, str) and value in KINDS,
    "kind": lambda value: isinstance(value, str) and value in KINDS,
    "precision": lambda value: isinstance(value, str) and value in PRECISIONS,
    "reason": lambda value: isinstance(value, str),
    "recall": lambda value: value is None or _is_recall(value),
    "generation": _is_whole,
    "structure": lambda value: value is None or _is_stamp(value),
}


def read_note(notes: Mapping[str, str], name: str, location: str) -> Any:
    """Reads the value of a note, and checks it if it is one of the index's own notes.

    Args:
        notes: the names of the notes and their values as JSON.
        name: of the note; a missing note is null.
        location: of the index, for the error message.

    Raises:
        StoreError: the value is not JSON, or not a valid value of this note.
    """
    try:
        value = json.loads(notes.get(name, "null"))
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"the note {name!r} of {location} is not JSON ({error}); make the index again") from error
    if name in _IS_VALID and not _IS_VALID[name](value):
        raise StoreError(
            f"the note {name!r} of {location} is {str(value)[:40]!r}, which is not valid; make the index again"
        )
    return value
