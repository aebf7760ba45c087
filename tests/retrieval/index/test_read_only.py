"""Indexes that may be read but not written: by permission, on a read-only or a full disk, and while others write."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index import Item, create_index, is_index, open_index
from embedding_expansion.retrieval.index.folder import access
from embedding_expansion.retrieval.index.postgres.address import parse
from retrieval.index.brute_force import items, vectors
from retrieval.index.rights import fill, make_read_only, small_disk, unprivileged

# Reads all that there is to read, tries all that writes, and says what came of it.
PROGRAM = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index import open_index
from retrieval.index.brute_force import items, vectors
def refused(call):
    try:
        call()
    except StoreError as error:
        return str(error)
with open_index(sys.argv[1]) as index:
    said = dict(reason=index.read_only, count=index.count(), label=index.count({{"label": "class 0"}}))
    said["found"] = [match.item.path for match in index.search(vectors(1, seed=1), 5)[0]]
    said["batches"] = sum(len(found) for found, _ in index.batches())
    said["notes"] = index.notes
    writes = [lambda: index.add(items(1), vectors(1)), lambda: index.remove(paths=["a/0.jpg"]),
              lambda: index.set_note("a", 1), lambda: index.build(), lambda: index.discard("photos")]
    said["refusals"] = sorted({{refused(write) for write in writes}})
print(json.dumps(said))
"""


def asked(place: Path, *prefix: str) -> dict[str, Any]:
    given = [*prefix, sys.executable, "-c", PROGRAM, str(place)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with create_index(tmp_path / "index", 8, kind="hnsw") as index:
        index.add(items(300), vectors(300))
        index.set_note("threshold", 0.5)
    return tmp_path / "index"


def forbid(folder: Path, which: str) -> None:
    """The three ways in which permissions can be missing."""
    files = [file for file in folder.iterdir() if file.is_file()]
    for place in {"all": [*files, folder], "file": [folder / "index.sqlite"], "folder": [folder]}[which]:
        place.chmod(0o555 if place.is_dir() else 0o444)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files but the table that processes share, in which readers of what a writer has left say where they read."""
    files = [file for file in folder.iterdir() if file.name != access.SHM]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def left_behind(folder: Path) -> None:
    """Adds items and is killed: what was added is beside the database and not in it yet."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from embedding_expansion.retrieval.index import open_index
from retrieval.index.brute_force import items, vectors
index = open_index(sys.argv[1])
index.add(items(50, start=300), vectors(50, seed=3))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program, str(folder)]).returncode == -signal.SIGKILL
    assert (folder / "index.sqlite-wal").stat().st_size > 0


@pytest.mark.parametrize("which", ["all", "file", "folder"])
@pytest.mark.parametrize("left", ["nothing", "both files of a writer", "changes alone"])
def test_without_permission_it_is_read_as_it_is_and_never_written(folder: Path, which: str, left: str) -> None:
    if left != "nothing":
        left_behind(folder)
    if left == "changes alone":
        (folder / "index.sqlite-shm").unlink()
    with open_index(shutil.copytree(folder, folder.parent / "copy")) as index:
        found = [match.item.path for match in index.search(vectors(1, seed=1), 5)[0]]
        label = index.count({"label": "class 0"})
    forbid(folder, which)
    before = content(folder)
    said = asked(folder, *unprivileged())
    n = 300 if left == "nothing" else 350
    assert (said["count"], said["batches"], said["label"], said["notes"]) == (n, n, label, {"threshold": 0.5})
    assert said["found"] == found
    assert said["reason"] == "you have no permission to write it"
    assert said["refusals"] == [
        f"{folder} can only be read (you have no permission to write it); change that, or write to a copy"
    ]
    assert content(folder) == before


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_structure_is_not_built_again_there_and_all_is_compared(folder: Path, damage: str) -> None:
    (structure,) = folder.glob("structure*")
    with open_index(folder) as index:
        true = [match.item.path for match in index.search(vectors(1, seed=1), 5, exact=True)[0]]
    structure.unlink() if damage == "missing" else structure.write_bytes(structure.read_bytes()[:100])
    forbid(folder, "all")
    before = content(folder)
    assert asked(folder, *unprivileged())["found"] == true
    assert content(folder) == before


def test_what_may_not_even_be_read_is_one_sentence(folder: Path) -> None:
    program = """
import sys
from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index import is_index, open_index
for call in (open_index, is_index):
    try:
        print(call(sys.argv[1]))
    except StoreError as error:
        print(error)
"""
    for place, mode in ((folder / "index.sqlite", 0o000), (folder, 0o000)):
        place.chmod(mode)
        given = [*unprivileged(), sys.executable, "-c", program, str(folder)]
        done = subprocess.run(given, capture_output=True, text=True, timeout=60)
        place.chmod(0o700)
        opened, there = done.stdout.splitlines()
        sentence = (
            f"the index {folder} cannot be used (Permission denied); check that it exists and that you have permission "
            "to use it"
        )
        assert opened == sentence
        assert there == ("True" if place != folder else sentence)


def test_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        for name in ("clean", "killed"):
            with create_index(disk / name, 8) as index:
                index.add(items(300), vectors(300))
        left_behind(disk / "killed")
        make_read_only(disk)
        for name, n in (("clean", 300), ("killed", 350)):
            said = asked(disk / name)
            assert (said["count"], said["batches"], said["reason"]) == (n, n, "its disk is read-only")
            assert len(said["refusals"]) == 1
        with pytest.raises(StoreError, match=r"cannot be made a folder for an index \(Read-only file system\)"):
            create_index(disk / "new", 8)


def test_a_full_disk_can_be_read(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        with create_index(disk / "index", 8) as index:
            index.add(items(100), vectors(100))
        fill(disk)
        said = asked(disk / "index")
        assert (said["count"], said["batches"]) == (100, 100)
        assert "is the disk full?" in said["reason"]
        assert len(said["refusals"]) == 1
        (disk / "filler").unlink()
        with open_index(disk / "index") as index:
            assert index.read_only is None
            assert index.add(items(1, start=500), vectors(1)).new == 1


@pytest.fixture
def only_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens an index in this process from now on believes that it may only be read."""
    monkeypatch.setattr(access, "_obstacle", lambda folder: "it was said so")


def changed_by_others(folder: Path, *steps: str) -> None:
    """Another process, which may write, opens the index and does something to it."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from embedding_expansion.retrieval.index import open_index
from retrieval.index.brute_force import items, vectors
with open_index(sys.argv[1]) as index:
    {"; ".join(steps)}
"""
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, timeout=120)


def test_a_later_writer_is_seen_by_who_may_only_read(folder: Path, only_read: None) -> None:
    with open_index(folder) as index:
        assert index.count() == 300
        first = index.search(vectors(1, seed=1), 1)[0][0].item.path
        changed_by_others(folder, f"index.remove(paths=[{first!r}])")
        assert index.count() == 299
        assert first not in {match.item.path for match in index.search(vectors(1, seed=1), 299)[0]}
        left_behind(folder)  # and one who leaves both files, which SQLite follows from then on
        assert index.count() == 349
        changed_by_others(folder, "index.add(items(10, start=400), vectors(10))")
        assert index.count() == 359
        assert len(index.search(vectors(1), 1000)[0]) == 359


def test_a_writer_who_has_it_open_is_followed(folder: Path, only_read: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_index(folder)
    assert reader.count() == 300
    with monkeypatch.context() as patch:
        patch.setattr(access, "_obstacle", lambda folder: None)
        writer = open_index(folder)
    writer.add(items(10, start=300), vectors(10))
    assert reader.count() == 310
    writer.add([Item("nearest")], vectors(1, seed=1))
    assert reader.search(vectors(1, seed=1), 1)[0][0].item.path == "nearest"
    writer.close()
    assert reader.count() == 311
    reader.close()


def test_what_was_written_while_it_was_read_is_told(folder: Path, only_read: None) -> None:
    with open_index(folder) as index:
        batches = index._store._transaction()  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match="was written by another process while it was read; try again"), batches:
            changed_by_others(folder, "index.remove(paths=['a/0.jpg'])")
        assert index.count() == 299


def test_a_folder_that_was_put_in_its_place_is_read(folder: Path, only_read: None) -> None:
    with open_index(folder) as index:
        folder.rename(folder.parent / "old")
        with pytest.raises(StoreError, match="is not an index"):
            index.count()
        with create_index(folder, 8) as other:
            assert other.count() == 0
        assert index.count() == 0
        assert is_index(folder)


def test_a_role_of_the_server_that_may_only_select(server: str, postgres_place: str) -> None:
    with create_index(postgres_place, 8, kind="hnsw") as index:
        index.add(items(60), vectors(60))
        true = [match.item.path for match in index.search(vectors(1, seed=1), 5)[0]]
    schema = parse(postgres_place).schema
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("CREATE ROLE reader LOGIN")
        admin.execute(f"GRANT USAGE ON SCHEMA {schema} TO reader")
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")
    with open_index(postgres_place.replace("postgres:@", "reader:@")) as index:
        assert [match.item.path for match in index.search(vectors(1, seed=1), 5)[0]] == true
        assert (index.count(), sum(len(found) for found, _ in index.batches())) == (60, 60)
        for write in (
            lambda: index.add(items(1), vectors(1)),
            lambda: index.remove(paths=["a/0.jpg"]),
            lambda: index.set_note("a", 1),
            index.build,
        ):
            with pytest.raises(StoreError, match=r"refuses the request \((permission denied|must be owner).*nothing"):
                write()
    with open_index(postgres_place) as index:
        assert index.count() == 60
