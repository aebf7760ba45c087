"""A connection to PostgreSQL that reconnects when it is lost, and turns errors of the server into sentences."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, TypeVar

import psycopg

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index.postgres.address import Address

Cursor: TypeAlias = psycopg.Cursor[Any]
T = TypeVar("T")

# Seconds to wait before each attempt to reconnect.
WAITS = (0.0, 0.2, 1.0, 3.0)
CONNECT_SECONDS = 10
# Seconds to wait before each attempt to lock: the server needs a moment to notice that a process was killed.
LOCK_WAITS = (0.0, 0.1, 0.4)


class Connection:
    """Runs transactions on the schema of one index.

    Args:
        address: of the server and the index.
        prepare: called with each new connection before its first use.
    """

    def __init__(self, address: Address, prepare: Callable[[psycopg.Connection[Any]], None]) -> None:
        self.address, self._prepare = address, prepare
        self._connection: psycopg.Connection[Any] | None = None
        self._guard, self._depth, self._has_been_connected = threading.RLock(), 0, False

    def transact(self, work: Callable[[Cursor], T]) -> T:
        """Does some work in one transaction, and starts it again if the connection is lost.

        Raises:
            StoreError: the server refuses, or can no longer be reached.
        """
        last: Exception | None = None
        with self._guard:
            for wait in WAITS:
                time.sleep(wait if last else 0)
                try:
                    connection = self._alive()
                    with connection.transaction(), connection.cursor(binary=True) as cursor:
                        return work(cursor)
                except psycopg.Error as error:
                    if self._connection is not None and not self._connection.closed:
                        raise self._refused(error) from None
                    if not self._has_been_connected:
                        reason = self.address.without_password(error)
                        raise StoreError(f"{self.address.shown} cannot be reached ({reason}); check the URL") from None
                    last, self._connection = error, None
        raise StoreError(
            f"the connection to {self.address.shown} was lost ({self.address.without_password(last)}); unfinished work "
            "has not changed the index, try again when the server answers"
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the exclusive right to write until the end of the block; a new connection acquires it again."""
        with self._guard:
            if self._depth == 0:
                self.transact(self._lock)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and self._connection is not None:
                    # A lost connection has already released its lock.
                    with contextlib.suppress(Exception):
                        self._connection.execute("SELECT pg_advisory_unlock_all()")

    def close(self) -> None:
        """Closes the connection."""
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _alive(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            fresh = connect(self.address)
            try:
                self._prepare(fresh)
                self._connection, self._has_been_connected = fresh, True
                if self._depth > 0:
                    with fresh.transaction(), fresh.cursor(binary=True) as cursor:
                        self._lock(cursor)
            except BaseException:
                fresh.close()
                self._connection = None
                raise
        return self._connection

    def _lock(self, cursor: Cursor) -> None:
        for wait in LOCK_WAITS:
            time.sleep(wait)
            cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self.address.schema,))
            if cursor.fetchone()[0]:  # type: ignore[index]
                return
        raise StoreError(f"{self.address.shown} is being written by another process; wait for it to end")

    def _refused(self, error: Exception) -> StoreError:
        message = self.address.without_password(error)
        return StoreError(f"{self.address.shown} refuses the request ({message}); nothing in the index has changed")


def connect(address: Address) -> psycopg.Connection[Any]:
    """Connects in autocommit mode.

    Raises:
        StoreError: libpq does not know an option of the URL.
        psycopg.OperationalError: the server cannot be reached.
    """
    try:
        return psycopg.connect(autocommit=True, **({"connect_timeout": CONNECT_SECONDS} | address.options))  # type: ignore[arg-type]
    except psycopg.ProgrammingError as error:
        raise StoreError(f"{address.shown} cannot be used ({address.without_password(error)}); check its URL") from None
