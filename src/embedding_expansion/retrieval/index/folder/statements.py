"""The SQL of an index in a folder: conditions, staging, publishing, removing."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from embedding_expansion.retrieval.index.items import Changes, Row
from embedding_expansion.retrieval.index.where import Condition, first_after

# Lists are passed as one JSON text, because SQLite limits the number of parameters.
_AMONG = "IN (SELECT from_hex(value) FROM json_each(?))"


def clause(condition: Condition) -> tuple[str, list[object]]:
    """A condition as SQL after WHERE, with the caller's values as parameters."""
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
    for column, sought in (("label", condition.label_part), ("path", condition.path_part)):
        if sought is not None:
            parts.append(f"contains({column}, ?)")
            values.append(sought)
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


def stage(database: sqlite3.Connection, key: bytes, rows: Sequence[Row], vectors: Float[np.ndarray, "n d"]) -> None:
    """Writes rows to a table that searches do not read."""
    database.executemany(
        "INSERT INTO staged (key, path, label, metadata, facts, thumbnail, vector) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (key, path) DO UPDATE SET label = excluded.label, metadata = excluded.metadata, "
        "facts = excluded.facts, thumbnail = excluded.thumbnail, vector = excluded.vector",
        [
            (key, row.path, row.label, row.metadata, json.dumps(row.facts, sort_keys=True), row.thumbnail, v.tobytes())
            for row, v in zip(rows, vectors, strict=True)
        ],
    )


def publish(database: sqlite3.Connection, key: bytes) -> Changes:
    """Moves staged rows to the items. New and changed vectors get the new generation."""
    before, now = count(database), generation(database) + 1
    touched = database.execute(
        "INSERT INTO items (path, label, metadata, facts, thumbnail, vector, changed) "
        "SELECT path, label, metadata, facts, thumbnail, vector, ? FROM staged WHERE key = ? ORDER BY place "
        "ON CONFLICT (path) DO UPDATE SET label = excluded.label, metadata = excluded.metadata, "
        "facts = excluded.facts, thumbnail = excluded.thumbnail, vector = excluded.vector, "
        "changed = CASE WHEN vector IS excluded.vector THEN changed ELSE excluded.changed END "
        "WHERE label IS NOT excluded.label OR metadata IS NOT excluded.metadata "
        "OR thumbnail IS NOT excluded.thumbnail OR vector IS NOT excluded.vector",
        (now, key),
    ).rowcount
    new = count(database) - before
    database.execute(
        "DELETE FROM facts WHERE item IN (SELECT id FROM staged JOIN items USING (path) WHERE key = ?)", (key,)
    )
    database.execute(
        "INSERT INTO facts (key, value, item) SELECT fact.key, fact.value, items.id "
        "FROM staged JOIN items USING (path), json_each(staged.facts) AS fact WHERE staged.key = ?",
        (key,),
    )
    database.execute("DELETE FROM staged WHERE key = ?", (key,))
    set_note(database, "generation", str(now))
    return Changes(new, touched - new)


def remove(database: sqlite3.Connection, conditions: Sequence[Condition]) -> int:
    """Removes the items that fulfil any of the conditions, and returns how many."""
    before = count(database)
    for condition in conditions:
        text, values = clause(condition)
        database.execute(f"DELETE FROM items WHERE {text}", values)
    set_note(database, "generation", str(generation(database) + 1))
    return before - count(database)


def count(database: sqlite3.Connection) -> int:
    """The number of items."""
    return int(database.execute("SELECT count(*) FROM items").fetchone()[0])


def generation(database: sqlite3.Connection) -> int:
    """The number of the current generation, which every change increases."""
    found = database.execute("SELECT value FROM notes WHERE name = 'generation'").fetchone()
    if found is None or not re.fullmatch("[0-9]{1,18}", str(found[0])):  # so that counting stays within 64 bits
        raise sqlite3.DatabaseError("the note 'generation' is not a whole number")
    return int(found[0])


def set_note(database: sqlite3.Connection, name: str, value: str) -> None:
    """Writes a note; an existing note of this name is replaced."""
    database.execute(
        "INSERT INTO notes VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )
