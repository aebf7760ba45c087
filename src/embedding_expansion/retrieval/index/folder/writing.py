"""What changes the database: staging, publishing, removing."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from embedding_expansion.retrieval.index.folder.clauses import clause
from embedding_expansion.retrieval.index.items import Changes, Row
from embedding_expansion.retrieval.index.where import Condition


def stage(database: sqlite3.Connection, key: bytes, rows: Sequence[Row], vectors: Float[np.ndarray, "n d"]) -> None:
    """Writes rows where no search sees them."""
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
    """Moves what is staged to where it is found. A new vector is marked with the new generation."""
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
    """Removes what fulfils any of the conditions."""
    before = count(database)
    for condition in conditions:
        text, values = clause(condition)
        database.execute(f"DELETE FROM items WHERE {text}", values)
    set_note(database, "generation", str(generation(database) + 1))
    return before - count(database)


def count(database: sqlite3.Connection) -> int:
    """How many items there are."""
    return int(database.execute("SELECT count(*) FROM items").fetchone()[0])


def generation(database: sqlite3.Connection) -> int:
    """Counts the changes."""
    found = database.execute("SELECT value FROM notes WHERE name = 'generation'").fetchone()
    if found is None or not re.fullmatch("[0-9]{1,18}", str(found[0])):  # of 64 bits, and counted on
        raise sqlite3.DatabaseError("the note 'generation' is no number")
    return int(found[0])


def set_note(database: sqlite3.Connection, name: str, value: str) -> None:
    """Writes one note."""
    database.execute(
        "INSERT INTO notes VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )
