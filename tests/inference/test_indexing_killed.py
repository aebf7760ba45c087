"""Real processes that index and add, killed at chosen moments, gone on with, and run against each other."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.retrieval.index import open_index
from inference.contents import contents

# Runs embex, and kills itself at a moment that the first argument names.
PROGRAM = """
import os, signal, sys
from embedding_expansion.app.cli import main
from embedding_expansion.inference import indexing
from embedding_expansion.retrieval.index import Loading, files
from embedding_expansion.retrieval.index.folder.store import FolderStore
from embedding_expansion.retrieval.index.postgres.store import PostgresStore

moment, *arguments = sys.argv[1:]
name, _, number = moment.partition(" ")
left = [int(number or 1)]

def count_down(original):
    def counting(*given, **named):
        result = original(*given, **named)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return counting

def waiting(original):
    def once_told(*given):
        original(*given)
        print("staged", flush=True)
        sys.stdin.readline()
    return once_told

if name == "made":
    indexing.create_index = count_down(indexing.create_index)
elif name == "files":
    files.ModelFiles.put = count_down(files.ModelFiles.put)
elif name == "staged":
    Loading.add = count_down(Loading.add)
elif name == "waiting":
    Loading.add = waiting(Loading.add)
else:
    for store in (FolderStore, PostgresStore):
        setattr(store, name, count_down(getattr(store, name)))
sys.exit(main(arguments))
"""
BATCH = ("--batch_size", "5")


def started(moment: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, moment, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def killed(moment: str, *arguments: str) -> None:
    process = started(moment, *arguments)
    assert process.communicate()[1] == ""
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(exports: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    index = str(tmp_path_factory.mktemp("indexes") / "whole")
    assert main(["index", str(exports / "onnx"), str(photographs), "--out", index, *BATCH]) == 0
    return index


def test_indexing_killed_again_and_again_comes_to_the_same_end(
    exports: Path, photographs: Path, place: str, uninterrupted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", str(exports / "onnx"), str(photographs), "--out", place, *BATCH]
    for moment, staged in (("made", 0), ("files 2", 0), ("staged 2", 10), ("staged 3", 25), ("staged 2", 32)):
        killed(moment, *command)
        with open_index(place) as index:
            assert index.count() == 0
            assert sum(index.unfinished().values()) == staged
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "32 images in" in said
    assert "32 new, 0 changed, 0 unchanged and skipped, 32 embedded by an earlier run" in said
    assert contents(place) == contents(uninterrupted)
    with open_index(place) as index, open_index(uninterrupted) as whole:
        assert index.unfinished() == {}
        assert index.files.sizes() == whole.files.sizes()
        assert index.notes == whole.notes


@pytest.mark.parametrize("moment", ["publish", "build"])
def test_killed_when_all_is_visible_nothing_is_left_to_do(
    moment: str, exports: Path, photographs: Path, place: str, uninterrupted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", str(exports / "onnx"), str(photographs), "--out", place, *BATCH]
    killed(moment, *command)
    assert contents(place) == contents(uninterrupted)
    assert main(command) == 0
    assert "0 new, 0 changed, 32 unchanged" in capsys.readouterr().out
    assert contents(place) == contents(uninterrupted)


def test_adding_killed_leaves_the_old_images_and_notices_files_that_change_meanwhile(
    exports: Path, photographs: Path, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for number in range(4):
        shutil.copytree(photographs / f"class_{number}", photos / f"class_{number}")
    assert main(["index", str(exports / "onnx"), str(photos / "class_0"), "--out", place, *BATCH]) == 0
    old = contents(place)
    killed("staged 2", "add", place, str(photos), *BATCH)
    assert contents(place) == old
    with open_index(place) as index:
        assert list(index.unfinished().values()) == [10]
    # The first of the ten, and one that is not embedded yet.
    shutil.copy(photographs / "class_7" / "0.jpg", photos / "class_1" / "0.jpg")
    shutil.copy(photographs / "class_7" / "1.jpg", photos / "class_3" / "3.jpg")
    capsys.readouterr()
    assert main(["add", place, str(photos), *BATCH]) == 0
    assert "12 new, 1 changed, 4 unchanged and skipped, 10 embedded by an earlier run" in capsys.readouterr().out
    other = str(tmp_path / "other")
    assert main(["index", str(exports / "onnx"), str(photos), "--out", other, *BATCH]) == 0
    found, expected = contents(place), contents(other)
    for path in old:  # the first four have the label that they were added with: none
        assert found[path] == old[path]
    pictures = {path: (label, metadata, picture) for path, (label, metadata, picture, _) in found.items()}
    for path in set(expected) - set(old):
        assert pictures[path] == expected[path][:3]
    assert set(found) == set(expected)


def test_a_second_process_is_told_to_wait_and_readers_see_the_old_index(
    exports: Path, photographs: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(exports / "onnx"), str(photographs / "class_0"), "--out", place]) == 0
    with started("waiting", "add", place, str(photographs), "--batch_size", "4") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "staged\n"
        capsys.readouterr()
        for command in (
            ["add", place, str(photographs)],
            ["index", str(exports / "onnx"), str(photographs), "--out", place],
            ["remove", place, "--prefix", str(photographs)],
        ):
            assert main(command) == 2
            complaint = capsys.readouterr().err
            assert re.fullmatch(r"embex: .* is being written by another process; wait for it to end\n", complaint)
        with open_index(place) as index:
            assert index.count() == 4
        out, err = first.communicate("go on\n" * 20)
    assert (first.returncode, err) == (0, "")
    assert "28 new" in out
    with open_index(place) as index:
        assert index.count() == 32
