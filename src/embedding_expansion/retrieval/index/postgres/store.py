"""The backend of an index in PostgreSQL."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import numpy as np
import psycopg
from jaxtyping import Float

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.arrays import Neighbours
from embedding_expansion.retrieval.index.items import Changes, Row
from embedding_expansion.retrieval.index.kinds import Choice, choose, measure, sample
from embedding_expansion.retrieval.index.notes import read_note
from embedding_expansion.retrieval.index.postgres import extension, searching, statements
from embedding_expansion.retrieval.index.postgres.address import parse
from embedding_expansion.retrieval.index.postgres.connection import Connection, Cursor
from embedding_expansion.retrieval.index.postgres.creation import FORMAT
from embedding_expansion.retrieval.index.postgres.statements import clause
from embedding_expansion.retrieval.index.where import Condition

# Up to this number of numbers, n x d, "auto" reads all rows for each query.
FLAT_NUMBERS = 2**22


class PostgresStore:
    """A `Store` with everything in the tables of one schema; `Store` documents the methods."""

    def __init__(self, url: str) -> None:
        address = parse(url)
        self.location = address.shown
        self.read_only: str | None = None
        self._connection = Connection(address, self._prepare)
        self._work = self._connection.transact
        notes = self.notes()
        self.dimensions: int = read_note(notes, "dimensions", self.location)
        self._asked: str = read_note(notes, "asked", self.location)
        self._precision: str = read_note(notes, "precision", self.location)

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        address = self._connection.address
        extension.prepare(connection, address)
        if connection.execute("SELECT to_regclass(%s)", (f"{address.schema}.notes",)).fetchone() == (None,):
            raise StoreError(
                f"{address.shown} is not an index, because it has no schema {address.schema}; make one first"
            )
        found = connection.execute("SELECT value FROM notes WHERE name = 'format'").fetchone()
        if found is None or not found[0].isdecimal() or int(found[0]) > FORMAT:
            raise StoreError(
                f"{address.shown} has format {found and found[0]}, but this version reads up to format {FORMAT}; "
                "upgrade embedding-expansion"
            )

    def writing(self) -> AbstractContextManager[None]:
        return self._connection.writing()

    def notes(self) -> dict[str, str]:
        return self._work(lambda cursor: dict(cursor.execute("SELECT name, value FROM notes").fetchall()))

    def set_note(self, name: str, value: str) -> None:
        self._work(lambda cursor: statements.set_note(cursor, name, value))

    def stage(self, key: bytes, rows: Sequence[Row], vectors: Float[np.ndarray, "n d"]) -> None:
        self._work(lambda cursor: statements.stage(cursor, key, rows, vectors))

    def staged(self, key: bytes) -> set[bytes]:
        query = "SELECT path FROM staged WHERE key = %s"
        return {path for (path,) in self._work(lambda cursor: cursor.execute(query, (key,)).fetchall())}

    def unfinished(self) -> dict[bytes, int]:
        query = "SELECT key, count(*) FROM staged GROUP BY key"
        return self._work(lambda cursor: dict(cursor.execute(query).fetchall()))

    def discard(self, key: bytes) -> None:
        self._work(lambda cursor: cursor.execute("DELETE FROM staged WHERE key = %s", (key,)) and None)

    def publish(self, key: bytes) -> Changes:
        token = uuid.uuid4().hex
        return self._work(lambda cursor: statements.publish(cursor, key, token))

    def remove(self, conditions: Sequence[Condition]) -> int:
        return self._work(lambda cursor: statements.remove(cursor, conditions))

    def count(self, condition: Condition) -> int:
        text, values = clause(condition)
        query = f"SELECT count(*) FROM items WHERE {text}"
        return int(self._work(lambda cursor: cursor.execute(query, values).fetchall())[0][0])

    def ids(self, condition: Condition, after: int, limit: int) -> list[int]:
        text, values = clause(condition)
        query = f"SELECT id FROM items WHERE id > %s AND {text} ORDER BY id LIMIT %s"
        found = self._work(lambda cursor: cursor.execute(query, (after, *values, limit)).fetchall())
        return [id for (id,) in found]

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int, condition: Condition, *, exact: bool, thumbnails: bool
    ) -> tuple[list[Neighbours], dict[int, Row]]:
        def work(cursor: Cursor) -> tuple[list[Neighbours], dict[int, Row]]:
            # All statements of this transaction see the same state of the index.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            found = searching.search(cursor, queries, k, condition, exact=exact, dimensions=self.dimensions)
            return found, self._read(cursor, {id for one in found for _, id in one}, thumbnails, vectors=False)[0]

        return self._work(work)

    def read(
        self, ids: Sequence[int], *, thumbnails: bool, vectors: bool = True
    ) -> tuple[dict[int, Row], dict[int, Float[np.ndarray, " d"]]]:
        return self._work(lambda cursor: self._read(cursor, set(ids), thumbnails, vectors))

    def _read(
        self, cursor: Cursor, ids: set[int], thumbnails: bool, vectors: bool
    ) -> tuple[dict[int, Row], dict[int, Float[np.ndarray, " d"]]]:
        picture, vector = "thumbnail" if thumbnails else "NULL", "vector" if vectors else "NULL"
        query = f"SELECT id, path, label, metadata, {picture}, {vector} FROM items WHERE id = ANY(%s::bigint[])"
        found = cursor.execute(query, (sorted(ids),)).fetchall()
        rows = {id: Row(path, label, metadata, {}, image) for id, path, label, metadata, image, _ in found}
        sent = {row[0]: row[5] for row in found if row[5] is not None}
        return rows, {id: extension.unpacked(content, self._precision) for id, content in sent.items()}

    def build(self, *, force: bool) -> None:
        """Builds the graph once, or when forced; PostgreSQL keeps it up to date."""
        n = self.count(Condition())
        choice = self._choice(n)
        there = self._work(searching.has_graph)
        recall = self.notes()["recall"]
        if choice.kind == "flat":
            recall = "null"
            if there:
                self._work(searching.drop_graph)
        elif n and (force or not there):
            self._work(lambda cursor: searching.build_graph(cursor, n, self.dimensions, self._precision))
            recall = self._measured()
        notes = {"kind": json.dumps(choice.kind), "reason": json.dumps(choice.reason), "recall": recall}

        def write(cursor: Cursor) -> None:
            for name, value in notes.items():
                statements.set_note(cursor, name, value)

        self._work(write)

    def _choice(self, n: int) -> Choice:
        most = extension.INDEX_DIMENSIONS["halfvec"]
        if self._asked == "auto" and self.dimensions > most:
            reason = f"flat: PostgreSQL's graph supports up to {most:,} dimensions, not {self.dimensions:,}"
            return Choice("flat", reason)
        choice = choose(self._asked, n, self.dimensions, FLAT_NUMBERS)
        return Choice("hnsw", choice.reason.replace("ivfpq", "hnsw")) if choice.kind == "ivfpq" else choice

    def _measured(self) -> str:
        def work(cursor: Cursor) -> str:
            every = [id for (id,) in cursor.execute("SELECT id FROM items ORDER BY id").fetchall()]
            vectors = self._read(cursor, set(sample(every)), thumbnails=False, vectors=True)[1]

            def found(queries: Float[np.ndarray, "q d"], k: int, exact: bool) -> list[Neighbours]:
                return searching.search(cursor, queries, k, Condition(), exact=exact, dimensions=self.dimensions)

            recall = measure(
                list(vectors),
                np.stack(list(vectors.values())),
                lambda queries, k: found(queries, k, False),
                lambda queries, k: found(queries, k, True),
            )
            return json.dumps(asdict(recall))

        return self._work(work)

    def put_file(self, name: str, pieces: Iterator[bytes]) -> None:
        encoded, content = (
            name.encode("utf-8", "surrogateescape"),
            list(pieces),
        )  # a list, because the work may be repeated

        def work(cursor: Cursor) -> None:
            cursor.execute("DELETE FROM files WHERE name = %s", (encoded,))
            for place, piece in enumerate(content or [b""]):
                cursor.execute("INSERT INTO files VALUES (%s, %s, %s)", (encoded, place, piece))

        self._work(work)

    def files(self) -> dict[str, int]:
        query = "SELECT name, sum(length(content))::bigint FROM files GROUP BY name ORDER BY name"
        found = self._work(lambda cursor: cursor.execute(query).fetchall())
        return {name.decode("utf-8", "surrogateescape"): size for name, size in found}

    def file(self, name: str) -> Iterator[bytes]:
        encoded = name.encode("utf-8", "surrogateescape")
        query = "SELECT content FROM files WHERE name = %s AND place = %s"

        def piece(place: int) -> list[tuple[bytes]]:
            return self._work(lambda cursor: cursor.execute(query, (encoded, place)).fetchall())

        for place in itertools.count():
            found = piece(place)
            if not found:
                break
            yield found[0][0]

    def close(self) -> None:
        self._connection.close()
