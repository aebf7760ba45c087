"""The extension pgvector: creates it on the server if that is allowed, and converts vectors to its binary form."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import psycopg
from jaxtyping import Float
from psycopg import adapt, pq, sql

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index.postgres.address import Address

OLDEST = (0, 8)  # the first version with iterative scans, without which a filtered search may find too few items
# The most dimensions of a column, and of an index on a column of each type.
COLUMN_DIMENSIONS = 16_000
INDEX_DIMENSIONS = {"vector": 2_000, "halfvec": 4_000}
# The name of the type of a column, and of its numbers in network order.
TYPES = {"float32": ("vector", ">f4"), "float16": ("halfvec", ">f2")}


class Packed(bytes):
    """A vector as pgvector sends and receives it: 16 bits for the dimensions, 16 unused bits, then the numbers."""


def packed(vector: Float[np.ndarray, " d"]) -> Packed:
    """Packs a vector in single precision; the server rounds it if the column has half precision."""
    return Packed(len(vector).to_bytes(2) + b"\0\0" + vector.astype(">f4").tobytes())


def unpacked(sent: bytes, precision: str) -> Float[np.ndarray, " d"]:
    """Unpacks a vector that the server sent, as float32 of unit norm."""
    vector = np.frombuffer(sent, TYPES[precision][1], offset=4).astype(np.float32)
    return vector if precision == "float32" else vector / np.linalg.norm(vector)


def ensure(connection: psycopg.Connection[Any], address: Address) -> None:
    """Creates the extension in the database if it is missing.

    Raises:
        StoreError: it is not installed on the server, you have no permission to create it, or it is too old.
    """
    if version(connection) is None:
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.errors.InsufficientPrivilege:
            raise StoreError(
                f"{address.shown} has no pgvector and you have no permission to create it; ask an administrator of the "
                "database for CREATE EXTENSION vector"
            ) from None
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
            raise StoreError(
                f"the server of {address.shown} has no pgvector; install it there (https://github.com/pgvector/pgvector)"
            ) from None
    found = version(connection)
    if found is None or tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise StoreError(
            f"{address.shown} has pgvector {found}, but needs {oldest} or later; install it, then run ALTER EXTENSION "
            "vector UPDATE"
        )


def version(connection: psycopg.Connection[Any]) -> str | None:
    """The version of the extension in this database; None if it is missing."""
    row = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
    return None if row is None else str(row[0])


def prepare(connection: psycopg.Connection[Any], address: Address) -> None:
    """Sets the search path of a connection to the schema of one index, and registers the type of vectors."""
    row = connection.execute(
        "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"
    ).fetchone()
    if row is None:
        raise StoreError(f"{address.shown} is not an index, because its database has no pgvector; make one first")
    path = sql.SQL("SET search_path TO {}, {}").format(sql.Identifier(address.schema), sql.Identifier(row[0]))
    connection.execute(path)
    number = connection.execute("SELECT 'vector'::regtype::oid").fetchone()

    class PackedDumper(adapt.Dumper):
        format = pq.Format.BINARY
        oid = int(cast("tuple[int]", number)[0])

        def dump(self, obj: Packed) -> bytes:
            return bytes(obj)

    connection.adapters.register_dumper(Packed, PackedDumper)
