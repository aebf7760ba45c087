"""A condition as SQL for SQLite: fixed texts, and the user's values as parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable

from embedding_expansion.retrieval.index.where import Condition, first_after

# Lists travel as one JSON text, because SQLite limits the number of parameters.
_AMONG = "IN (SELECT from_hex(value) FROM json_each(?))"


def clause(condition: Condition) -> tuple[str, list[object]]:
    """What follows WHERE, and its parameters."""
    parts, values = ["1"], list[object]()
    if condition.labels is not None:
        part = f"label {_AMONG}"
        parts.append(f"({part} OR label IS NULL)" if None in condition.labels else part)
        values.append(_hex(label for label in condition.labels if label is not None))
    if condition.paths is not None:
        parts.append(f"path {_AMONG}")
        values.append(_hex(condition.paths))
    if condition.prefix:
        parts.append("path >= ?")
        values.append(condition.prefix)
        if (end := first_after(condition.prefix)) is not None:
            parts.append("path < ?")
            values.append(end)
    for key, wanted in (condition.facts or {}).items():
        part = "id IN (SELECT item FROM facts WHERE key = ? AND value IN (SELECT value FROM json_each(?)))"
        values += [key, json.dumps([value for value in wanted if value is not None])]
        if None in wanted:
            part = f"({part} OR NOT EXISTS (SELECT 1 FROM facts WHERE item = id AND key = ?))"
            values.append(key)
        parts.append(part)
    return " AND ".join(parts), values


def _hex(texts: Iterable[bytes]) -> str:
    return json.dumps([text.hex() for text in texts])
