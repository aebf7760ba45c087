"""Makes the tables of an index in PostgreSQL, in one transaction."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from psycopg import sql

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.retrieval.index.postgres import extension
from embedding_expansion.retrieval.index.postgres.address import Address, parse
from embedding_expansion.retrieval.index.postgres.connection import connect

FORMAT = 1

TABLES = """
CREATE TABLE notes (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path bytea NOT NULL UNIQUE, label bytea, metadata text NOT NULL, facts jsonb NOT NULL, thumbnail bytea,
    vector {type} NOT NULL
);
CREATE INDEX items_label ON items (label);
CREATE INDEX items_facts ON items USING gin (facts);
CREATE TABLE staged (
    place bigint GENERATED ALWAYS AS IDENTITY,
    key bytea NOT NULL, path bytea NOT NULL, label bytea, metadata text NOT NULL, facts jsonb NOT NULL, thumbnail bytea,
    vector {type} NOT NULL,
    PRIMARY KEY (key, path)
);
CREATE TABLE files (name bytea, place integer, content bytea NOT NULL, PRIMARY KEY (name, place));
"""


def create(url: str, notes: dict[str, Any]) -> None:
    """Makes an empty index.

    Raises:
        StoreError: an index of this name exists, or the server does not allow it.
        InvalidInput: a kind or a number of dimensions that PostgreSQL does not support.
    """
    address = parse(url)
    _check(notes)
    try:
        with connect(address) as connection:
            extension.ensure(connection, address)
            with connection.transaction():
                _create(connection, address, notes)
    except psycopg.errors.DuplicateSchema:
        raise StoreError(f"{address.shown} already holds an index; open it, or choose another name") from None
    except psycopg.Error as error:
        raise StoreError(
            f"{address.shown} cannot be made ({address.without_password(error)}); check the URL and your permissions"
        ) from None


def exists(url: str) -> bool:
    """Whether an index of this name exists.

    Raises:
        StoreError: the server cannot be reached.
    """
    address = parse(url)
    try:
        with connect(address) as connection:
            found = connection.execute("SELECT to_regclass(%s)", (f"{address.schema}.notes",)).fetchone()
    except psycopg.Error as error:
        raise StoreError(
            f"{address.shown} cannot be reached ({address.without_password(error)}); check the URL"
        ) from None
    return found != (None,)


def _check(notes: dict[str, Any]) -> None:
    d, kind = notes["dimensions"], notes["asked"]
    if kind == "ivfpq":
        raise InvalidInput("kind is 'ivfpq', which PostgreSQL does not support; pass 'auto', 'flat' or 'hnsw'")
    if d > extension.COLUMN_DIMENSIONS:
        raise InvalidInput(f"dimensions is {d:,}; pass at most {extension.COLUMN_DIMENSIONS:,} for PostgreSQL")
    most = extension.INDEX_DIMENSIONS["halfvec"]
    if kind == "hnsw" and d > most:
        raise InvalidInput(
            f"kind is 'hnsw' and dimensions {d:,}, but PostgreSQL's graph supports up to {most:,}; pass 'flat'"
        )


def _create(connection: psycopg.Connection[Any], address: Address, notes: dict[str, Any]) -> None:
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(address.schema)))
    extension.prepare(connection, address)
    connection.execute(TABLES.format(type=f"{extension.TYPES[notes['precision']][0]}({notes['dimensions']})"))
    with connection.cursor() as cursor:
        values = [(name, json.dumps(value)) for name, value in ({"format": FORMAT} | notes).items()]
        cursor.executemany("INSERT INTO notes VALUES (%s, %s)", values)
