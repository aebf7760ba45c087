"""What only an index in PostgreSQL has: a connection that can be lost, rights, a password, limits of dimensions."""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg
import pytest

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.retrieval.index import Changes, Index, Loading, create_index, open_index
from embedding_expansion.retrieval.index.postgres.address import parse
from retrieval.index.brute_force import items, vectors

SECRET = "s3cr?t/@:%"
ENCODED = "s3cr%3Ft%2F%40%3A%25"


def end_connections(server: str) -> int:
    """Ends whatever is connected, as a server that restarts does."""
    with psycopg.connect(server, autocommit=True) as admin:
        found = admin.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' AND datname = 'postgres'"
        ).fetchone()
        return int(found[0]) if found else 0


def test_a_load_survives_connections_that_end_in_the_middle(server: str, postgres_place: str) -> None:
    with create_index(postgres_place, 8) as index:
        with index.loading("photos") as load:
            for start in range(0, 100, 20):
                load.add(items(20, start), vectors(20, seed=start))
                assert end_connections(server) >= 1
        assert load.changes == Changes(100, 0)
        assert index.count() == 100
        end_connections(server)
        assert len(index.search(vectors(1), 100)[0]) == 100


def test_connections_that_end_at_random_moments_leave_all_or_nothing(server: str, postgres_place: str) -> None:
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            end_connections(server)
            time.sleep(0.15)

    with create_index(postgres_place, 8) as index:
        thread = threading.Thread(target=disturb)
        thread.start()
        added = 0
        try:
            for step in range(8):
                with contextlib.suppress(StoreError):
                    index.add(items(300, 300 * step), vectors(300))
                    added += 1
        finally:
            stop.set()
            thread.join()
        seen = {index.count({"path": [item.path for item in items(300, 300 * step)]}) for step in range(8)}
        assert seen <= {0, 300}
        assert index.count() >= 300 * added
        assert index.add(items(300), vectors(300)).changed == 0


def lose_the_lock(load: Loading, other: Index, server: str) -> None:
    load.add(items(3), vectors(3))
    end_connections(server)
    with other.loading("b") as second:
        second.add(items(1), vectors(1))
        load.add(items(3, start=3), vectors(3))


def test_a_lock_that_another_writer_took_meanwhile_ends_the_load(server: str, postgres_place: str) -> None:
    with create_index(postgres_place, 8) as index, open_index(postgres_place) as other:
        other.count()
        with pytest.raises(StoreError, match="is being written by another process"), index.loading("a") as load:
            lose_the_lock(load, other, server)
        assert index.unfinished() == {"a": 3, "b": 1}
        assert index.count() == 0


@pytest.mark.parametrize(("dimensions", "precision"), [(2000, "float32"), (2001, "float32"), (4000, "float16")])
def test_the_graph_holds_as_many_dimensions_as_the_server_allows(
    server: str, postgres_place: str, dimensions: int, precision: str
) -> None:
    with create_index(postgres_place, dimensions, kind="hnsw", precision=precision) as index:
        index.add(items(60), vectors(60, dimensions))
        assert index.recall is not None
        assert index.recall.value > 0.9
        query = vectors(1, dimensions)
        found, true = (index.search(query, 10, exact=exact)[0] for exact in (False, True))
        assert found[0].item.id == true[0].item.id
    with psycopg.connect(server) as connection:
        connection.execute("SELECT set_config('search_path', %s, false)", (parse(postgres_place).schema + ", public",))
        connection.execute("SET enable_seqscan = off")
        compared = "vector" if dimensions != 2001 else "vector::halfvec(2001)"
        plan = connection.execute(
            f"EXPLAIN SELECT id FROM items ORDER BY {compared} <=> (SELECT {compared} FROM items LIMIT 1) LIMIT 10"
        ).fetchall()
        assert any("items_graph" in line for (line,) in plan)


def test_beyond_the_graph_it_searches_exactly_and_says_so(postgres_place: str) -> None:
    with pytest.raises(InvalidInput, match="dimensions 4,001, but PostgreSQL's graph supports up to 4,000"):
        create_index(postgres_place, 4001, kind="hnsw")
    with pytest.raises(InvalidInput, match=r"dimensions is 16,001; pass at most 16,000 for PostgreSQL"):
        create_index(postgres_place, 16_001)
    with pytest.raises(InvalidInput, match="kind is 'ivfpq', which PostgreSQL does not support"):
        create_index(postgres_place, 8, kind="ivfpq")
    with create_index(postgres_place, 4001) as index:
        index.add(items(3), vectors(3, 4001))
        assert index.reason == "flat: PostgreSQL's graph supports up to 4,000 dimensions, not 4,001"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{ENCODED}@127.0.0.1:1/db?index=a",
        f"postgresql://me@127.0.0.1:1/db?password={ENCODED}&index=a",
        f"postgresql://me:{ENCODED}@127.0.0.1:port/db",
        f"postgresql://me:{ENCODED}@127.0.0.1:1/db?index=A-B",
        f"postgresql://me:{ENCODED}@127.0.0.1:1/db?no_such_option=1",
        f"postgresql://me:{ENCODED}@127.0.0.1:1/db?sslmode=wrong",
        f"postgresql://me:{ENCODED}@[127.0.0.1:1/db",
        f"postgresql://me:{SECRET}@127.0.0.1:1/db",
        f"mysql://me:{ENCODED}@127.0.0.1:1/db",
    ],
)
def test_a_password_is_in_no_message(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    for call in (lambda: open_index(url), lambda: create_index(url, 8)):
        with pytest.raises((StoreError, InvalidInput)) as caught:
            call()
        message = str(caught.value)
        for secret in ("s3cr", SECRET, ENCODED):
            assert secret not in message
        assert "\n" not in message
        assert caught.value.__cause__ is None
    assert "s3cr" not in "".join(capfd.readouterr())


def test_an_address_is_shown_without_its_password() -> None:
    address = parse(f"postgresql://me:{ENCODED}@host:5433/db?index=birds&sslmode=require")
    assert address.shown == "postgresql://me:***@host:5433/db?index=birds"
    assert address.options["password"] == SECRET
    assert address.options["sslmode"] == "require"
    assert SECRET not in repr(address)


def test_without_the_extension_and_the_right_to_make_it_there_is_one_sentence(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("CREATE ROLE guest LOGIN")
        admin.execute("CREATE DATABASE bare")
    url = server.replace("postgres:@/postgres", "guest:@/bare")
    with pytest.raises(StoreError, match="is not an index, because its database has no pgvector"):
        open_index(url)
    with pytest.raises(StoreError, match="has no pgvector and you have no permission to create it; ask"):
        create_index(url, 8)
    with psycopg.connect(server.replace("/postgres?", "/bare?"), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA elsewhere")
        admin.execute("CREATE EXTENSION vector SCHEMA elsewhere")
        with pytest.raises(StoreError, match=r"cannot be made \(permission denied"):
            create_index(url, 8)
        admin.execute("GRANT CREATE ON DATABASE bare TO guest")
        admin.execute("GRANT USAGE ON SCHEMA elsewhere TO guest")
    with create_index(url, 8) as index:
        assert index.add(items(2), vectors(2)).new == 2


def test_a_newer_format_is_refused(server: str, postgres_place: str) -> None:
    create_index(postgres_place, 8).close()
    with psycopg.connect(server) as admin:
        admin.execute(f"UPDATE {parse(postgres_place).schema}.notes SET value = '2' WHERE name = 'format'")
    with pytest.raises(StoreError, match="has format 2, but this version reads up to format 1"):
        open_index(postgres_place)
