"""pgvector on the server: made if that is allowed, and how a vector travels in its binary form."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import psycopg
from jaxtyping import Float
from psycopg import adapt, pq, sql

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index.postgres.address import Address

OLDEST = (0, 8)  # the first with iterative scans, without which a filtered search may come back with too few
# The most dimensions of a column, and of an index on a column of each type.
COLUMN_DIMENSIONS = 16_000
INDEX_DIMENSIONS = {"vector": 2_000, "halfvec": 4_000}
# The name of the type of a column, and of its numbers in network order.
TYPES = {"float32": ("vector", ">f4"), "float16": ("halfvec", ">f2")}


class Packed(bytes):
    """A vector as pgvector sends and receives it: 16 bits of dimensions, 16 unused, then its numbers."""


def packed(vector: Float[np.ndarray, " d"]) -> Packed:
    """A vector as the server wants it, in single precision; it rounds it where the column holds less."""
    return Packed(len(vector).to_bytes(2) + b"\0\0" + vector.astype(">f4").tobytes())


def unpacked(sent: bytes, precision: str) -> Float[np.ndarray, " d"]:
    """A vector as the server sent it, as float32 of unit norm."""
    vector = np.frombuffer(sent, TYPES[precision][1], offset=4).astype(np.float32)
    return vector if precision == "float32" else vector / np.linalg.norm(vector)


def ensure(connection: psycopg.Connection[Any], address: Address) -> None:
    """Makes the extension if it is not there.

    Raises:
        StoreError: it is not installed on the server, must be made by somebody else, or is too old.
    """
    if version(connection) is None:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.errors.InsufficientPrivilege:
            raise StoreError(
                f"{address.shown} has no pgvector and you may not make it; ask an administrator of the database for "
                "CREATE EXTENSION vector"
            ) from None
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
            raise StoreError(
                f"the server of {address.shown} has no pgvector; install it there (https://github.com/pgvector/pgvector)"
            ) from None
    found = version(connection)
    if found is None or tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise StoreError(
            f"{address.shown} has pgvector {found}, {oldest} is needed; install it, then ALTER EXTENSION vector UPDATE"
        )


def version(connection: psycopg.Connection[Any]) -> str | None:
    """Of the extension in this database; None if it is not there."""
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return None if row is None else str(row[0])


def prepare(connection: psycopg.Connection[Any], address: Address) -> None:
    """Makes names mean the tables of one index, and teaches the connection to send vectors."""
    row = connection.execute(
        "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
    ).fetchone()
    if row is None:
        raise StoreError(f"{address.shown} is no index, its database has no pgvector; make one first")
    path = sql.SQL("SET search_path TO {}, {}").format(sql.Identifier(address.schema), sql.Identifier(row[0]))
    connection.execute(path)
    number = connection.execute("SELECT 'vector'::regtype::oid").fetchone()

    class PackedDumper(adapt.Dumper):
        format = pq.Format.BINARY
        oid = int(cast("tuple[int]", number)[0])

        def dump(self, obj: Packed) -> bytes:
            return bytes(obj)

    connection.adapters.register_dumper(Packed, PackedDumper)
