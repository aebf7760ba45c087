"""Searches in PostgreSQL: by the graph, or exactly by reading all rows that fulfil a condition."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from embedding_expansion.retrieval.arrays import Neighbours
from embedding_expansion.retrieval.index.postgres.connection import Cursor
from embedding_expansion.retrieval.index.postgres.extension import INDEX_DIMENSIONS, packed
from embedding_expansion.retrieval.index.postgres.statements import clause
from embedding_expansion.retrieval.index.where import Condition

NAME = "items_graph"
BREADTH = 100  # the fewest points that a search of the graph keeps as candidates; the server allows 1,000
LINKS, BREADTH_OF_BUILDING = 16, 64
# The server's default limit of 20,000 rows would end a filtered search early.
ALL_ROWS = 2**31 - 1
MOST_MEMORY_KB = 2**20


def column(dimensions: int) -> str:
    """The SQL expression to index and compare: the vector, in half precision if it has too many dimensions."""
    return "vector" if dimensions <= INDEX_DIMENSIONS["vector"] else f"vector::halfvec({dimensions})"


def build_graph(cursor: Cursor, n: int, dimensions: int, precision: str) -> None:
    """Builds the graph from all rows, which is faster than adding row by row; an existing graph is dropped."""
    half = precision == "float16" or dimensions > INDEX_DIMENSIONS["vector"]
    memory = min(MOST_MEMORY_KB, max(2**16, 2 * n * (dimensions * 4 + 8 * LINKS + 100) // 1024))
    cursor.execute(f"SET LOCAL maintenance_work_mem = {memory}")
    drop_graph(cursor)
    operators = "halfvec_cosine_ops" if half else "vector_cosine_ops"
    cursor.execute(
        f"CREATE INDEX {NAME} ON items USING hnsw (({column(dimensions)}) {operators}) "
        f"WITH (m = {LINKS}, ef_construction = {BREADTH_OF_BUILDING})"
    )
    cursor.execute("ANALYZE items")


def drop_graph(cursor: Cursor) -> None:
    """Drops the graph if it exists."""
    cursor.execute(f"DROP INDEX IF EXISTS {NAME}")


def has_graph(cursor: Cursor) -> bool:
    """Whether a valid graph exists."""
    found = cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (NAME,)).fetchone()
    return bool(found and found[0])


def exactly(cursor: Cursor, query: Float[np.ndarray, " d"], k: int, condition: Condition) -> Neighbours:
    """The k most similar rows; the server compares the query with all rows that fulfil the condition."""
    text, values = clause(condition)
    # No index orders by this expression, so the server does not use the graph.
    rows = cursor.execute(
        f"SELECT 1 - (vector <=> %s) AS similarity, id FROM items WHERE {text} ORDER BY similarity DESC, id LIMIT %s",
        (packed(query), *values, k),
    ).fetchall()
    return [(float(similarity), int(id)) for similarity, id in rows]


def by_graph(cursor: Cursor, query: Float[np.ndarray, " d"], k: int, condition: Condition, compared: str) -> Neighbours:
    """Approximately the k most similar rows; the graph is read until enough rows fulfil the condition."""
    text, values = clause(condition)
    rows = cursor.execute(
        f"WITH near AS MATERIALIZED (SELECT id, vector FROM items WHERE {text} ORDER BY {compared} <=> %s LIMIT %s) "
        "SELECT 1 - (vector <=> %s) AS similarity, id FROM near ORDER BY similarity DESC, id LIMIT %s",
        (*values, packed(query), 2 * k, packed(query), k),
    ).fetchall()
    return [(float(similarity), int(id)) for similarity, id in rows]


def search(
    cursor: Cursor, queries: Float[np.ndarray, "q d"], k: int, condition: Condition, *, exact: bool, dimensions: int
) -> list[Neighbours]:
    """Finds the neighbours of each query; a query for which the graph finds too few is searched exactly."""
    if exact or not has_graph(cursor):
        return [exactly(cursor, query, k, condition) for query in queries]
    cursor.execute(f"SET LOCAL hnsw.ef_search = {min(1000, max(BREADTH, 2 * k))}")
    cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
    cursor.execute(f"SET LOCAL hnsw.max_scan_tuples = {ALL_ROWS}")
    found = [by_graph(cursor, query, k, condition, column(dimensions)) for query in queries]
    if any(len(one) < k for one in found):
        text, values = clause(condition)
        cursor.execute(f"SELECT count(*) FROM (SELECT 1 FROM items WHERE {text} LIMIT %s) AS enough", (*values, k))
        there = cursor.fetchone()[0]  # type: ignore[index]
        found = [
            one if len(one) >= there else exactly(cursor, query, k, condition)
            for one, query in zip(found, queries, strict=True)
        ]
    return found
