"""The SQL of an index in PostgreSQL: conditions, staging by COPY, publishing, removing."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int8

from embedding_expansion.retrieval.index.items import Changes, Row
from embedding_expansion.retrieval.index.postgres.connection import Cursor
from embedding_expansion.retrieval.index.postgres.extension import packed
from embedding_expansion.retrieval.index.where import Condition, first_after

COLUMNS = "path, label, metadata, facts, thumbnail, vector"

#: Bytes as text, a character each, with ASCII letters in lower case. Text of PostgreSQL cannot hold a NUL.
_CONTAINS = (
    "CASE WHEN position('\\x00'::bytea IN {0}) > 0 OR position('\\x00'::bytea IN %s::bytea) > 0 THEN false ELSE "
    "position(convert_from(%s::bytea, 'LATIN1') IN lower(convert_from({0}, 'LATIN1') COLLATE \"C\")) > 0 END"
)


def clause(condition: Condition) -> tuple[str, list[object]]:
    """A condition as SQL after WHERE, with the caller's values as parameters."""
    parts, values = ["true"], list[object]()
    if condition.labels is not None:
        part = "label = ANY(%s::bytea[])"
        parts.append(f"({part} OR label IS NULL)" if None in condition.labels else part)
        values.append([label for label in condition.labels if label is not None])
    if condition.paths is not None:
        parts.append("path = ANY(%s::bytea[])")
        values.append(list(condition.paths))
    if condition.prefix:
        parts.append("path >= %s")
        values.append(condition.prefix)
        if (end := first_after(condition.prefix)) is not None:
            parts.append("path < %s")
            values.append(end)
    for column, sought in (("label", condition.label_part), ("path", condition.path_part)):
        if sought is not None:
            parts.append(_CONTAINS.format(column))
            values += [sought, sought]
    for key, wanted in (condition.facts or {}).items():
        any_of = ["false"]
        for value in wanted:
            any_of.append("NOT jsonb_exists(facts, %s)" if value is None else "facts @> %s")
            values.append(key if value is None else Jsonb({key: value}))
        parts.append(f"({' OR '.join(any_of)})")
    return " AND ".join(parts), values


def stage(cursor: Cursor, key: bytes, rows: Sequence[Row], vectors: Float[np.ndarray, "n d"]) -> None:
    """Copies rows to a table that searches do not read."""
    cursor.execute(
        f"CREATE TEMPORARY TABLE batch (place bigint, path bytea, label bytea, metadata text, facts jsonb, "
        f"thumbnail bytea, vector vector({vectors.shape[1]})) ON COMMIT DROP"
    )
    # Int8, because psycopg sends a plain int in the fewest bytes that hold it.
    with cursor.copy(f"COPY batch ({COLUMNS}, place) FROM STDIN (FORMAT BINARY)") as copy:
        for place, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
            copy.write_row((*row[:3], Jsonb(row.facts), row.thumbnail, packed(vector), Int8(place)))
    updates = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ")[1:])
    cursor.execute(
        f"INSERT INTO staged (key, {COLUMNS}) SELECT %s, {COLUMNS} FROM batch ORDER BY batch.place "
        f"ON CONFLICT (key, path) DO UPDATE SET {updates}",
        (key,),
    )


def publish(cursor: Cursor, key: bytes, token: str) -> Changes:
    """Moves staged rows to the items.

    Args:
        cursor: within a transaction.
        key: of the load.
        token: of this call. If the connection is lost during the commit, the caller cannot know whether it succeeded.
            It then calls again with the same token, and gets the result of the first call if that was committed.
    """
    done = cursor.execute("SELECT value FROM notes WHERE name = 'published'").fetchone()
    if done is not None and json.loads(done[0])["token"] == token:
        return Changes(json.loads(done[0])["new"], json.loads(done[0])["changed"])
    names = COLUMNS.split(", ")[1:]
    updates = ", ".join(f"{name} = excluded.{name}" for name in names)
    differs = " OR ".join(f"items.{n} IS DISTINCT FROM excluded.{n}" for n in names if n != "facts")
    cursor.execute(
        f"WITH done AS (INSERT INTO items ({COLUMNS}) SELECT {COLUMNS} FROM staged WHERE key = %s ORDER BY place "
        f"ON CONFLICT (path) DO UPDATE SET {updates} WHERE {differs} RETURNING xmax = 0 AS is_new) "
        "SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM done",
        (key,),
    )
    new, changed = cursor.fetchone()  # type: ignore[misc]
    cursor.execute("DELETE FROM staged WHERE key = %s", (key,))
    set_note(cursor, "published", json.dumps({"token": token, "new": new, "changed": changed}))
    return Changes(new, changed)


def remove(cursor: Cursor, conditions: Sequence[Condition]) -> int:
    """Removes the items that fulfil any of the conditions, and returns how many."""
    removed = 0
    for condition in conditions:
        text, values = clause(condition)
        removed += cursor.execute(f"DELETE FROM items WHERE {text}", values).rowcount
    return removed


def set_note(cursor: Cursor, name: str, value: str) -> None:
    """Writes a note; an existing note of this name is replaced."""
    cursor.execute(
        "INSERT INTO notes VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )
