"""A condition as SQL for PostgreSQL: fixed texts, and the user's values as parameters."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from embedding_expansion.retrieval.index.where import Condition, first_after


def clause(condition: Condition) -> tuple[str, list[object]]:
    """What follows WHERE, and its parameters."""
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
    for key, wanted in (condition.facts or {}).items():
        any_of = ["false"]
        for value in wanted:
            any_of.append("NOT jsonb_exists(facts, %s)" if value is None else "facts @> %s")
            values.append(key if value is None else Jsonb({key: value}))
        parts.append(f"({' OR '.join(any_of)})")
    return " AND ".join(parts), values
