"""The SQLite file of an index in a folder: made, opened and locked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from embedding_expansion.errors import StoreError
from embedding_expansion.files import replacing

NAME, LOCK = "index.sqlite", "lock"
FORMAT = 1
APPLICATION = 0x656D6278  # "embx": how SQLite's header says whose file it is
BUSY_SECONDS = 60.0

SCHEMA = """
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice
    path BLOB NOT NULL UNIQUE,
    label BLOB,
    metadata TEXT NOT NULL,
    facts TEXT NOT NULL,                   -- what of the metadata can be filtered by
    thumbnail BLOB,
    vector BLOB NOT NULL,
    changed INTEGER NOT NULL               -- the generation in which the vector was written
);
CREATE INDEX items_label ON items (label);
CREATE INDEX items_changed ON items (changed);
CREATE TABLE facts (
    key TEXT NOT NULL, value TEXT NOT NULL, item INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    PRIMARY KEY (item, key)
) WITHOUT ROWID;
CREATE INDEX facts_value ON facts (key, value, item);
CREATE TABLE staged (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    key BLOB NOT NULL, path BLOB NOT NULL, label BLOB, metadata TEXT NOT NULL, facts TEXT NOT NULL, thumbnail BLOB,
    vector BLOB NOT NULL,
    UNIQUE (key, path)
);
"""


def create(folder: Path, notes: dict[str, object]) -> None:
    """Makes the file in an empty folder, or in one that is not there yet; nobody sees half of it.

    Raises:
        StoreError: the folder holds something already, or cannot be written.
    """
    try:
        Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)  # a link may lead to what is yet to be made
        # What a kill in this function has left is no content.
        content = [entry for entry in os.listdir(folder) if not entry.startswith(f"{NAME}.partial")]
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be made a folder for an index ({error.strerror}); name another place"
        ) from None
    if NAME in content:
        raise StoreError(f"{folder} holds an index already; open it, or name another folder")
    if content:
        raise StoreError(f"{folder} is not empty and holds no index; name a new or an empty folder")
    with store_errors(folder), replacing(folder / NAME) as partial:
        database = sqlite3.connect(partial, isolation_level=None)
        try:
            database.executescript(SCHEMA)
            database.executemany("INSERT INTO notes VALUES (?, ?)", [(k, json.dumps(v)) for k, v in notes.items()])
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {FORMAT}")
            database.execute("PRAGMA journal_mode = WAL")  # stays so: readers and a writer do not wait for each other
        finally:
            database.close()


def exists(folder: Path) -> bool:
    """Whether there is such a file.

    Raises:
        StoreError: the folder may not be looked into.
    """
    with store_errors(folder):
        return (folder / NAME).is_file()


def connect(folder: Path, place: Path | str) -> sqlite3.Connection:
    """Opens a database, once it is known to be one of ours and can be read.

    Args:
        folder: of the index, for the sentences.
        place: of the database, a path or a URI of SQLite.

    Raises:
        StoreError: it is no index, or a newer version has written it.
        sqlite3.DatabaseError: it is damaged, or cannot be opened so.
    """
    database = sqlite3.connect(
        place,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        uri=isinstance(place, str),
    )
    try:
        _check(database, folder)
        database.execute("PRAGMA foreign_keys = ON")
        database.execute("PRAGMA synchronous = FULL")
        database.create_function("from_hex", 1, bytes.fromhex, deterministic=True)
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection, folder: Path) -> None:
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise StoreError(f"{folder / NAME} is a database, but none of an index; name another folder")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        raise StoreError(
            f"{folder} has format {version}, this version reads up to {FORMAT}; upgrade embedding-expansion"
        )


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, begin: str = "BEGIN") -> Iterator[None]:
    """All or nothing; reading, one state of the database however long it takes."""
    database.execute(begin)
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def store_errors(folder: Path) -> Iterator[None]:
    """Turns what SQLite and the system say into one sentence."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(f"the index {folder} cannot be used ({error}); nothing in it has changed") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter of what it says itself
        raise StoreError(f"{folder / NAME} is no index or is damaged ({error}); make it again") from error
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "make room for it" if is_full else "see that it is there and that you may use it"
        raise StoreError(f"the index {folder} cannot be used ({error.strerror or error}); {remedy}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the right to write, until the block or the process ends, however it ends.

    Raises:
        StoreError: another process, or another `Index` of this one, holds it.
    """
    with store_errors(folder):
        lock = (folder / LOCK).open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{folder} is being written by another process; wait for it to end") from None
        yield
