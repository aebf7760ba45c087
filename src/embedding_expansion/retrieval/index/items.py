"""The items of an index, the matches of a search, and the form in which the backends store items."""

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
        path: the name of the item; adding the same path again replaces the item. File names that are not UTF-8 are
            kept as Python represents them (`os.fsdecode`).
        label: its class, or None.
        metadata: other facts, which JSON must be able to represent. Searches can filter by numbers, texts and booleans.
        thumbnail: a small version of the image, as the bytes of a file, or None.
        id: its number in the index, None before it is added. Comparing items ignores it.

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
    """An item that a search found, and its cosine similarity to the query."""

    item: Item
    similarity: float


@dataclass(frozen=True)
class Changes:
    """How many items were added, and how many existing items were replaced because the item or its vector differed."""

    new: int
    changed: int


class Row(NamedTuple):
    """An item as the backends store it; texts that may be any file name are bytes."""

    path: bytes
    label: bytes | None
    metadata: str
    facts: dict[str, str]
    thumbnail: bytes | None


@validates
def rows_of(items: Iterable[Item]) -> list[Row]:
    """Checks items and converts them to the form in which they are stored."""
    rows = []
    for position, item in enumerate(items):
        if not isinstance(item, Item):
            raise InvalidType(f"items[{position}] is a {type(item).__name__}; pass an Item")
        if not isinstance(item.metadata, Mapping):
            raise InvalidType(f"the metadata of {item.path!r} is a {type(item.metadata).__name__}; pass a dict")
        if not isinstance(item.thumbnail, (bytes, type(None))):
            raise InvalidType(
                f"the thumbnail of {item.path!r} is a {type(item.thumbnail).__name__}; pass bytes or None"
            )
        label = None if item.label is None else encoded(item.label, f"the label of {item.path!r}")
        path = encoded(item.path, f"the path of items[{position}]")
        rows.append(Row(path, label, _json(item), _facts(item.metadata), item.thumbnail))
    return rows


def item_of(id: int, row: Row) -> Item:
    """Converts a stored row to an item.

    Raises:
        StoreError: the metadata in the row are damaged.
    """
    label, path = None if row.label is None else decoded(row.label), decoded(row.path)
    try:
        metadata = json.loads(row.metadata)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise StoreError(f"the metadata of {path!r} in the index are damaged; remove the item and add it again")
    return Item(path, label, metadata, row.thumbnail, id)


@validates
def encoded(text: str, what: str) -> bytes:
    """Encodes a path or a label as file names are encoded: different texts stay different and sort alike everywhere."""
    if not isinstance(text, str):
        raise InvalidType(f"{what} is a {type(text).__name__}; pass a str")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} is {text!r}, which cannot be encoded; pass a text or a file name") from None


def decoded(text: bytes) -> str:
    """Reverses `encoded`."""
    return text.decode("utf-8", "surrogateescape")


@validates
def canonical(value: object, what: str) -> str:
    """Converts a number, a text or a boolean to a text by which equal values are found: 1 equals 1.0, but not True."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{what} is {value}, which JSON cannot represent; leave it out")
    if not isinstance(value, (str, int, float)):
        raise InvalidType(f"{what} is a {type(value).__name__}; pass a text, a number or a boolean")
    return json.dumps(value)  # ASCII, which any database can store, even for lone surrogates and NUL


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
            raise InvalidType(f"{what} has the key {key!r}; pass keys that are texts")
    try:
        return json.dumps(dict(item.metadata), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{what} cannot be stored as JSON ({error}); pass texts, finite numbers, booleans, lists and dicts"
        ) from None
