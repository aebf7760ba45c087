"""Loads that are broken off: by an error, by SIGKILL at any moment."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.index import Changes, Index, Item, Loading, create_index, open_index
from retrieval.index.brute_force import Expected, items, same, vectors

OLD, NEW, BATCH = 40, 400, 25
PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from retrieval.index.brute_force import items, vectors
from embedding_expansion.retrieval.index import open_index
rows, matrix = items({NEW}, start={OLD // 2}), vectors({NEW}, seed=5)
with open_index(sys.argv[1]) as index:
    with index.loading("photos") as load:
        print("begun", flush=True)
        for start in range(0, {NEW}, {BATCH}):
            wanted = [i for i in range(start, start + {BATCH}) if rows[i].path not in load.staged]
            load.add([rows[i] for i in wanted], matrix[wanted])
            print(len(load.staged), flush=True)
    print("done", load.changes.new, load.changes.changed, flush=True)
"""


def start(place: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, place], stdout=subprocess.PIPE, text=True)


def paths(index: Index) -> set[str]:
    return {item.path for found, _ in index.batches() for item in found}


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_kill_at_any_moment_leaves_the_old_index_or_the_new_one(place: str, kind: str) -> None:
    old, new = {row.path for row in items(OLD)}, {row.path for row in items(NEW, start=OLD // 2)}
    rng = random.Random(kind + place[:4])
    with create_index(place, 8, kind=kind) as index:
        index.add(items(OLD), vectors(OLD))
        staged = 0
        # After some lines of progress, and a moment later: the last kill falls into the publishing or the building.
        for lines in (2, 5, NEW // BATCH + 1):
            child = start(place)
            assert child.stdout is not None
            with child.stdout:
                for _ in range(lines):
                    child.stdout.readline()
                time.sleep(rng.random() * 0.02)
                child.kill()
                child.wait()
            there = paths(index)
            assert there in (old, old | new)
            found = index.search(vectors(3, seed=9), 30)
            assert [len(one) for one in found] == [30, 30, 30]
            if there == old:
                assert index.unfinished()["photos"] >= staged
                staged = index.unfinished()["photos"]
        finished = subprocess.run([sys.executable, "-c", PROGRAM, place], capture_output=True, text=True, check=True)
        if there == old:
            assert f"begun\n{staged}\n" in finished.stdout  # nothing was embedded twice
            assert finished.stdout.endswith(f"done {NEW - OLD // 2} {OLD // 2}\n")
        assert paths(index) == old | new
        assert index.unfinished() == {}
        expected = Expected()
        ids = {item.path: item.id or 0 for found_, _ in index.batches() for item in found_}
        for rows, matrix in ((items(OLD), vectors(OLD)), (items(NEW, start=OLD // 2), vectors(NEW, seed=5))):
            expected.items |= {r.path: (ids[r.path], r, v) for r, v in zip(rows, matrix, strict=True)}
        query = vectors(1, seed=9)
        same(index.search(query, 9, exact=True)[0], expected.search(query[0], 9))


def add_and_fail(load: Loading) -> None:
    load.add(items(5, start=10), vectors(5))
    load.add(items(1), np.zeros((1, 8)))


def test_a_load_that_fails_is_seen_by_nobody_and_goes_on_later(place: str) -> None:
    with create_index(place, 8) as index:
        index.add(items(3), vectors(3))
        with pytest.raises(InvalidInput, match="row 0"), index.loading("photos") as load:
            add_and_fail(load)
        assert index.count() == 3
        assert index.unfinished() == {"photos": 5}
        with index.loading("other") as load:
            assert load.staged == set()
            load.add([Item("x")], vectors(1))
            assert index.count() == 3
        assert load.changes == Changes(1, 0)
        with index.loading("photos") as load:
            assert load.staged == {item.path for item in items(5, start=10)}
            load.add(items(1, start=14), vectors(1, seed=3))
        assert load.changes == Changes(5, 0)
        assert index.search(vectors(1, seed=3), 1)[0][0].item.path == "a/14.jpg"
        assert index.unfinished() == {}


def test_what_is_staged_can_be_given_up(place: str) -> None:
    with create_index(place, 8) as index:
        with pytest.raises(InvalidInput, match="row 0"), index.loading("photos") as load:
            add_and_fail(load)
        index.discard("photos")
        assert index.unfinished() == {}
        with index.loading("photos") as load:
            assert load.staged == set()
        assert index.count() == 0


def test_bad_input_in_a_call_changes_nothing(place: str) -> None:
    broken = vectors(5)
    broken[3, 2] = np.nan
    with create_index(place, 8) as index:
        index.add(items(2), vectors(2))
        with pytest.raises(InvalidInput, match="row 3 of vectors has NaN or infinite entries"):
            index.add(items(5), broken)
        assert index.count() == 2
        assert index.unfinished() == {}


def test_an_index_that_was_killed_while_it_was_made_is_none_and_can_be_made(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "index.sqlite.partial-77").write_bytes(b"half")
    with create_index(folder, 2) as index:
        assert index.count() == 0
    with open_index(folder) as index:
        assert index.dimensions == 2
