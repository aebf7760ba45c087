"""Conditions that select items: small and typed, never SQL of the caller."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidType, UnknownName
from embedding_expansion.retrieval.index.items import canonical, encoded

Where: TypeAlias = Mapping[str, Any]
KEYS = ("label", "label_contains", "path", "path_prefix", "path_contains", "metadata")


@dataclass(frozen=True)
class Condition:
    """A condition that an item fulfils if all parts hold; None or an empty dict always holds.

    Attributes:
        labels: the label is one of these.
        paths: the path is one of these.
        prefix: the path starts with this.
        label_part: the label contains this, in lower case; see `lowered`.
        path_part: the path contains this, in lower case.
        facts: for each key, the value in the metadata is one of these; None means that there is no value.
    """

    labels: tuple[bytes | None, ...] | None = None
    paths: tuple[bytes, ...] | None = None
    prefix: bytes | None = None
    facts: Mapping[str, tuple[str | None, ...]] | None = None
    label_part: bytes | None = None
    path_part: bytes | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every item fulfils the condition."""
        exact = self.labels is None and self.paths is None and not self.prefix and not self.facts
        return exact and self.label_part is None and not self.path_part


@validates
def condition(where: Where | None) -> Condition:
    """Reads a condition in the form in which a caller passes it.

    Args:
        where: a dict with any of the keys `label` and `path` (a value, or a list of values of which one must match),
            `path_prefix` (a text), `label_contains` and `path_contains` (a text; the case of ASCII letters does not
            matter) and `metadata` (a dict of keys, each with a value or a list of values). All of them must hold. A
            label of None matches items without a label. A metadata value of None matches items without the key, or
            whose value is not a text, number or boolean.

    Raises:
        UnknownName: a key other than these.
        InvalidType: a value of a type that is not stored.

    Example:
        >>> condition({"label": ["cat", "dog"], "path_prefix": "zoo/"}).prefix
        b'zoo/'
    """
    if where is None:
        return Condition()
    if not isinstance(where, Mapping):
        raise InvalidType(f"where is a {type(where).__name__}; pass a dict such as {{'label': 'cat'}}")
    for key in where:
        if key not in KEYS:
            raise UnknownName("key of where", key, KEYS)
    labels = paths = prefix = None
    if "label" in where:
        labels = tuple(None if v is None else encoded(v, "where['label']") for v in _listed(where["label"]))
    if "path" in where:
        paths = tuple(encoded(value, "where['path']") for value in _listed(where["path"]))
    if "path_prefix" in where:
        prefix = encoded(where["path_prefix"], "where['path_prefix']")
    parts = {name: _part(where, f"{name}_contains") for name in ("label", "path")}
    return Condition(labels, paths, prefix, _facts(where.get("metadata", {})), parts["label"], parts["path"])


def lowered(text: bytes) -> bytes:
    """The text with its ASCII letters in lower case, which every backend can do alike; other bytes stay."""
    return text.lower()


def first_after(prefix: bytes) -> bytes | None:
    """The smallest bytes after everything that starts with a prefix; None if nothing comes after it."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


@validates
def _facts(metadata: Mapping[str, Any]) -> dict[str, tuple[str | None, ...]]:
    if not isinstance(metadata, Mapping):
        raise InvalidType(f"where['metadata'] is a {type(metadata).__name__}; pass a dict of keys and values")
    facts = {}
    for key, wanted in metadata.items():
        if not isinstance(key, str):
            raise InvalidType(f"where['metadata'] has the key {key!r}; pass keys that are texts")
        what = f"where['metadata'][{key!r}]"
        facts[json.dumps(key)] = tuple(None if value is None else canonical(value, what) for value in _listed(wanted))
    return facts


@validates
def _part(where: Where, key: str) -> bytes | None:
    return lowered(encoded(where[key], f"where[{key!r}]")) if key in where else None


def _listed(wanted: Any) -> Iterable[Any]:
    return wanted if isinstance(wanted, (list, tuple, set, frozenset)) else (wanted,)
