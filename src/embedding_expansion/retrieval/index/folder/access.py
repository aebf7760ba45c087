"""How the database of an index is opened: to be written, or only to be read where no more is allowed.

SQLite's WAL mode wants to write even where a database is only read: beside it lie the changes that are not in it yet
(`-wal`) and a table of them that all processes share (`-shm`). Where neither may be made there are three cases, see
`_to_be_read`.
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
#: Size, time of change and number of the database and of its changes; None where there are none.
Stamps: TypeAlias = tuple[tuple[int, ...] | None, ...]
#: What SQLite says where a disk is full or refuses more than reading.
REFUSALS = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_FULL", "SQLITE_IOERR")
LEAST_TABLE = 2**15  # bytes: SQLite makes the table of changes in pieces of so many
#: So often files are copied that another process writes meanwhile.
TRIES = 5


class Access:
    """An open database.

    Attributes:
        database: the connection.
        reason: why it may only be read; None where it may be written as well.
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
        """Whether the files have changed and this connection does not see it; SQLite itself sees it where it can."""
        return self._stamps is not None and self._stamps != _stamps(self._folder)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Makes sure that nobody has written into the file that was read in the block.

        Raises:
            StoreError: somebody has.
        """
        try:
            yield
        finally:
            if self._stamps is not None and self._copy is None and self._stamps[0] != _stamps(self._folder)[0]:
                raise StoreError(f"{self._folder} was written by another process while it was read; try again")

    def close(self) -> None:
        """Ends it."""
        self.database.close()
        if self._copy is not None:
            self._copy.cleanup()


def opened(folder: Path) -> Access:
    """Opens the database of an index.

    Raises:
        StoreError: there is none, it is no index, it is damaged or may not be read, or a newer version has written it.
    """
    if not db.exists(folder):
        raise StoreError(f"{folder} is no index, there is no {db.NAME} in it; make one first, or name another folder")
    with db.store_errors(folder):
        (folder / db.NAME).open("rb").close()  # the system says better than SQLite why it may not be read
        reason = _obstacle(folder)
        if reason is None:
            try:
                return Access(folder, db.connect(folder, folder / db.NAME))
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith(REFUSALS):
                    raise
                reason = f"nothing can be written beside it, {error}; is the disk full?"
        return _to_be_read(folder, reason)


def _obstacle(folder: Path) -> str | None:
    """Why an index may not be written, if that is so."""
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return "its disk is read-only"
    files = [file for name in (db.NAME, WAL, SHM, db.LOCK) if (file := folder / name).exists()]
    if os.access(folder, os.W_OK | os.X_OK) and all(os.access(file, os.W_OK) for file in files):
        return None
    return "you have no permission to write it"


def _to_be_read(folder: Path, reason: str) -> Access:
    """Opens it without writing anything beside it.

    If both files of a writer are there, SQLite follows it. If there are changes alone, they and the database are
    copied, because SQLite would leave them out. If there is neither, the database is all, and is read as a file that
    nobody writes. In the last two cases a later writer is seen by the times of the files.
    """
    place = (folder / db.NAME).absolute().as_uri()
    for _ in range(TRIES):
        stamps = _stamps(folder)
        if _is_shared(folder):
            return Access(folder, db.connect(folder, f"{place}?mode=ro"), reason)
        if stamps[1] is None:
            return Access(folder, db.connect(folder, f"{place}?immutable=1"), reason, stamps)
        copy = tempfile.TemporaryDirectory(prefix="embex-index-")
        with contextlib.suppress(FileNotFoundError):  # a writer has just put its changes into the database
            for name in (WAL, db.NAME):
                shutil.copyfile(folder / name, Path(copy.name) / name)
        if stamps == _stamps(folder):
            return Access(folder, db.connect(folder, Path(copy.name) / db.NAME), reason, stamps, copy)
        copy.cleanup()
    raise StoreError(f"{folder} is being written by another process and may only be read here; try again")


def _is_shared(folder: Path) -> bool:
    """Whether the files of a writer are there; a full disk leaves a table that is too short."""
    table = folder / SHM
    return os.access(table, os.R_OK) and table.stat().st_size >= LEAST_TABLE and (folder / WAL).exists()


def _stamps(folder: Path) -> Stamps:
    return tuple(_stamp(folder / name) for name in (db.NAME, WAL))


def _stamp(file: Path) -> tuple[int, ...] | None:
    """What changes with a file; None of one that is empty or not there."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ino) if found.st_size else None
