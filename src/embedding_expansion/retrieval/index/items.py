"""What an index holds of an image, what a search finds, and the form in which both backends write it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput, InvalidType, StoreError


@dataclass(frozen=True)
class Item:
    """One image of an index.

    Attributes:
        path: what names it: the same path again replaces the item. File names that are no UTF-8 are kept as Python
            gives them (`os.fsdecode`).
        label: its class, or None.
        metadata: whatever else is known of it, as JSON; its numbers, texts and booleans can be filtered by.
        thumbnail: a small picture as the bytes of a file, or None.
        id: its number in the index; None before it is in one. Two items are equal whatever their numbers.

    Example:
        >>> Item("cars/1.jpg", label="beetle", metadata={"year": 1965}).metadata["year"]
        1965
    """

    path: str
    label: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes | None = None
    id: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Match:
    """An item that a search found, and its cosine similarity to the query: larger is closer."""

    item: Item
    similarity: float


@dataclass(frozen=True)
class Changes:
    """What adding has changed: paths that were not there, and paths whose item or vector differed."""

    new: int
    changed: int


class Row(NamedTuple):
    """An item as it is stored; texts that may hold any file name are bytes."""

    path: bytes
    label: bytes | None
    metadata: str
    facts: dict[str, str]
    thumbnail: bytes | None


@validates
def rows_of(items: Iterable[Item]) -> list[Row]:
    """Checks items and brings them into the form in which they are stored."""
    rows = []
    for place, item in enumerate(items):
        if not isinstance(item, Item):
            raise InvalidType(f"items[{place}] is a {type(item).__name__}; pass an Item")
        if not isinstance(item.metadata, Mapping):
            raise InvalidType(f"the metadata of {item.path!r} is a {type(item.metadata).__name__}; pass a dict")
        if not isinstance(item.thumbnail, (bytes, type(None))):
            raise InvalidType(
                f"the thumbnail of {item.path!r} is a {type(item.thumbnail).__name__}; pass bytes or None"
            )
        label = None if item.label is None else encoded(item.label, f"the label of {item.path!r}")
        path = encoded(item.path, f"the path of items[{place}]")
        rows.append(Row(path, label, _json(item), _facts(item.metadata), item.thumbnail))
    return rows


def item_of(id: int, row: Row) -> Item:
    """The item that a stored row stands for."""
    label, path = None if row.label is None else decoded(row.label), decoded(row.path)
    try:
        metadata = json.loads(row.metadata)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise StoreError(f"the metadata of {path!r} in the index are damaged; remove the item, and add it again")
    return Item(path, label, metadata, row.thumbnail, id)


@validates
def encoded(text: str, what: str) -> bytes:
    """A path or a label as bytes, the way file names are: no two texts share them, and they sort alike everywhere."""
    if not isinstance(text, str):
        raise InvalidType(f"{what} is a {type(text).__name__}; pass a str")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} is {text!r}, which is no text and no file name; pass one of them") from None


def decoded(text: bytes) -> str:
    """The text that was encoded."""
    return text.decode("utf-8", "surrogateescape")


@validates
def canonical(value: object, what: str) -> str:
    """A number, a text or a boolean as the text by which equal ones are found: 1 and 1.0 are equal, True and 1 not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{what} is {value}; JSON has no such number, leave it out")
    if not isinstance(value, (str, int, float)):
        raise InvalidType(f"{what} is a {type(value).__name__}; pass a text, a number or a boolean")
    return json.dumps(value)  # ASCII, so that any database holds it, half characters and NUL included


def _facts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        json.dumps(key): canonical(value, f"metadata[{key!r}]")
        for key, value in metadata.items()
        if isinstance(value, (str, int, float))
    }


def _json(item: Item) -> str:
    what = f"the metadata of {item.path!r}"
    for key in item.metadata:
        if not isinstance(key, str):
            raise InvalidType(f"{what} has the key {key!r}; keys are texts")
    try:
        return json.dumps(dict(item.metadata), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is no JSON ({error}); pass texts, finite numbers, booleans, lists, dicts") from None
