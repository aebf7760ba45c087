"""Opens the database of an index for reading and writing, or only for reading if it cannot be written.

In WAL mode SQLite writes even when it only reads: beside the database it needs a file of changes that are not in it yet
(`-wal`), and a table of these changes that all processes share (`-shm`). `_open_read_only` handles the cases in which
these files cannot be made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index.folder import database as db

WAL, SHM = f"{db.NAME}-wal", f"{db.NAME}-shm"
#: Size, modification time and inode of the database and of its file of changes; None for a file that does not exist.
Stamps: TypeAlias = tuple[tuple[int, ...] | None, ...]
#: The errors of SQLite on a disk that is full or read-only.
REFUSALS = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_FULL", "SQLITE_IOERR")
LEAST_TABLE = 2**15  # bytes: SQLite makes the table of changes in pieces of this size
#: How often to copy the files again if another process writes them meanwhile.
TRIES = 5


class Access:
    """An open database.

    Attributes:
        database: the connection.
        reason: why the database can only be read; None if it can be written as well.
    """

    def __init__(
        self,
        folder: Path,
        database: sqlite3.Connection,
        reason: str | None = None,
        stamps: Stamps | None = None,
        copy: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.database, self.reason = database, reason
        self._folder, self._stamps, self._copy = folder, stamps, copy

    def is_outdated(self) -> bool:
        """Whether the files have changed in a way that this connection does not see."""
        return self._stamps is not None and self._stamps != _stamps(self._folder)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Checks at the end of the block that no other process has written the file that was read.

        Raises:
            StoreError: another process has.
        """
        try:
            yield
        finally:
            if self._stamps is not None and self._copy is None and self._stamps[0] != _stamps(self._folder)[0]:
                raise StoreError(f"{self._folder} was written by another process while it was read; try again")

    def close(self) -> None:
        """Closes the connection and deletes a copy of the database, if one was made."""
        self.database.close()
        if self._copy is not None:
            self._copy.cleanup()


def opened(folder: Path) -> Access:
    """Opens the database of an index.

    Raises:
        StoreError: there is no database, it is not one of an index, it is damaged, it cannot be read, or it was written
            by a newer version.
    """
    if not db.exists(folder):
        raise StoreError(f"{folder} is not an index, because it has no {db.NAME}; make one, or name another folder")
    with db.store_errors(folder):
        (folder / db.NAME).open("rb").close()  # the error of the system explains better than SQLite's why this fails
        reason = _obstacle(folder)
        if reason is None:
            try:
                return Access(folder, db.connect(folder, folder / db.NAME))
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith(REFUSALS):
                    raise
                reason = f"nothing can be written beside it, {error}; is the disk full?"
        return _open_read_only(folder, reason)


def _obstacle(folder: Path) -> str | None:
    """Why an index cannot be written; None if it can."""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "its disk is read-only"
    files = [file for name in (db.NAME, WAL, SHM, db.LOCK) if (file := folder / name).exists()]
    if os.access(folder, os.W_OK | os.X_OK) and all(os.access(file, os.W_OK) for file in files):
        return None
    return "you have no permission to write it"


def _open_read_only(folder: Path, reason: str) -> Access:
    """Opens the database without writing anything beside it.

    If both files of a writer exist, SQLite follows the writer. If only the file of changes exists, both files are
    copied, because SQLite would ignore the changes. If neither exists, the database is complete and is opened as an
    immutable file. In the last two cases the modification times of the files show whether a writer came later.
    """
    uri = (folder / db.NAME).absolute().as_uri()
    for _ in range(TRIES):
        stamps = _stamps(folder)
        if _is_shared(folder):
            return Access(folder, db.connect(folder, f"{uri}?mode=ro"), reason)
        if stamps[1] is None:
            return Access(folder, db.connect(folder, f"{uri}?immutable=1"), reason, stamps)
        copy = tempfile.TemporaryDirectory(prefix="embex-index-")
        with contextlib.suppress(FileNotFoundError):  # a writer has just moved its changes into the database
            for name in (WAL, db.NAME):
                shutil.copyfile(folder / name, Path(copy.name) / name)
        if stamps == _stamps(folder):
            return Access(folder, db.connect(folder, Path(copy.name) / db.NAME), reason, stamps, copy)
        copy.cleanup()
    raise StoreError(f"{folder} is being written by another process and can only be read here; try again")


def _is_shared(folder: Path) -> bool:
    """Whether both files of a writer exist and are complete; a full disk leaves a table that is too short."""
    table = folder / SHM
    return os.access(table, os.R_OK) and table.stat().st_size >= LEAST_TABLE and (folder / WAL).exists()


def _stamps(folder: Path) -> Stamps:
    return tuple(_stamp(folder / name) for name in (db.NAME, WAL))


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Size, modification time and inode of a file; None if the file is empty or does not exist."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ino) if found.st_size else None
