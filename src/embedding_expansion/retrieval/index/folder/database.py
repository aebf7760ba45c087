"""The SQLite database of an index in a folder: makes it, opens it and locks it."""

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
from embedding_expansion.retrieval.index.where import lowered

NAME, LOCK = "index.sqlite", "lock"
FORMAT = 1
APPLICATION = 0x656D6278  # "embx": identifies our files in the header of SQLite
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
    """Makes the database atomically, in an empty folder or in one that does not exist yet.

    Raises:
        StoreError: the folder is not empty, or cannot be written.
    """
    try:
        Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)  # a link may lead to a missing folder
        # Files that a process left when it was killed in this function do not count as content.
        content = [entry for entry in os.listdir(folder) if not entry.startswith(f"{NAME}.partial")]
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be made a folder for an index ({error.strerror}); name another folder"
        ) from None
    if NAME in content:
        raise StoreError(f"{folder} already holds an index; open it, or name another folder")
    if content:
        raise StoreError(f"{folder} is not empty and holds no index; name a new or an empty folder")
    with store_errors(folder), replacing(folder / NAME) as partial:
        database = sqlite3.connect(partial, isolation_level=None)
        try:
            database.executescript(SCHEMA)
            database.executemany("INSERT INTO notes VALUES (?, ?)", [(k, json.dumps(v)) for k, v in notes.items()])
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {FORMAT}")
            database.execute("PRAGMA journal_mode = WAL")  # permanent: readers and a writer do not block each other
        finally:
            database.close()


def exists(folder: Path) -> bool:
    """Whether a folder has such a database.

    Raises:
        StoreError: the folder cannot be read.
    """
    with store_errors(folder):
        return (folder / NAME).is_file()


def connect(folder: Path, place: Path | str) -> sqlite3.Connection:
    """Opens a database and checks that it is one of an index.

    Args:
        folder: of the index, for the error messages.
        place: the database, a path or a URI of SQLite.

    Raises:
        StoreError: it is not a database of an index, or it was written by a newer version.
        sqlite3.DatabaseError: it is damaged, or cannot be opened.
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
        database.create_function("contains", 2, _contains, deterministic=True)
    except BaseException:
        database.close()
        raise
    return database


def _contains(text: bytes | None, part: bytes) -> bool:
    """Whether a column contains a text in lower case; SQLite's own LIKE and lower stop at a NUL."""
    return isinstance(text, bytes) and part in lowered(text)


def _check(database: sqlite3.Connection, folder: Path) -> None:
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
        raise StoreError(f"{folder / NAME} is a database, but not of an index; name another folder")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        raise StoreError(
            f"{folder} has format {version}, but this version reads up to format {FORMAT}; upgrade embedding-expansion"
        )


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, begin: str = "BEGIN") -> Iterator[None]:
    """Runs the block in one transaction: writes are atomic, and reads see one state of the database."""
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
    """Turns errors of SQLite and of the system into a StoreError of one sentence."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"the index {folder} cannot be used ({error}); nothing in it has changed, try again"
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter from messages of SQLite
        raise StoreError(f"{folder / NAME} is damaged or not of an index ({error}); make the index again") from error
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some disk space" if is_full else "check that it exists and that you have permission to use it"
        raise StoreError(f"the index {folder} cannot be used ({error.strerror or error}); {remedy}") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the exclusive right to write until the end of the block or of the process, even if it is killed.

    Raises:
        StoreError: another process, or another `Index` of this process, holds it.
    """
    with store_errors(folder):
        lock = (folder / LOCK).open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{folder} is being written by another process; wait for it to end") from None
        yield
