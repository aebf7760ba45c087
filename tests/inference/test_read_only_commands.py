"""The commands on an index that may be read but not written: what only reads works, what writes is one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedding_expansion.app.cli import main
from inference.contents import contents
from retrieval.index.rights import make_read_only, small_disk, unprivileged

PROGRAM = """
import contextlib, io, json, sys
from embedding_expansion.app.cli import main
told = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        status = main(command)
    told.append([status, out.getvalue(), error.getvalue()])
print(json.dumps(told))
"""


def told(commands: list[list[str]], prefix: tuple[str, ...] = ()) -> list[tuple[int, str, str]]:
    """Status, output and errors of each command, in a process of its own."""
    given: list[Any] = [*prefix, sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(one) for one in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def made(exports: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    assert main(["index", str(exports / "onnx"), str(photographs), "--out", str(folder)]) == 0
    return folder


def check(index: Path, photographs: Path, exports: Path, out: Path, prefix: tuple[str, ...], reason: str) -> None:
    image = str(photographs / "class_0" / "0.jpg")
    reading = [
        ["info", str(index)],
        ["search", str(index), image, "-k", "3", "--html", str(out / "found.html")],
        ["duplicates", str(index), "--html", str(out / "copies.html")],
        ["cluster", str(index), "--k", "3", "--out", str(out / "clusters")],
        ["remove", str(index), "--label", "class_0", "--dry_run"],
    ]
    writing = [
        ["add", str(index), image],
        ["index", str(exports / "onnx"), str(photographs), "--out", str(index)],
        ["remove", str(index), "--label", "class_0"],
        ["calibrate", str(index), "--precision", "0.1"],
    ]
    answers = told([*reading, *writing], prefix)
    for command, (status, said, errors) in zip(reading, answers, strict=False):
        assert (status, errors) == (0, ""), command
        assert said, command
    assert "32 images, 32 with a label" in answers[0][1]
    assert f"read-only: {reason}" in answers[0][1]
    assert "/class_0/0.jpg" in answers[1][1]
    for command, (status, _, errors) in zip(writing, answers[len(reading) :], strict=True):
        sentence = f"embex: {index} can only be read ({reason}); change that, or write to a copy\n"
        assert (status, errors) == (2, sentence), command


def test_without_permission(made: Path, exports: Path, photographs: Path, tmp_path: Path) -> None:
    index = shutil.copytree(made, tmp_path / "index")
    for file in (index, *index.rglob("*")):
        file.chmod(0o555 if file.is_dir() else 0o444)
    check(index, photographs, exports, tmp_path, unprivileged(), "you have no permission to write it")
    assert contents(str(index)) == contents(str(made))


def test_on_a_read_only_disk(made: Path, exports: Path, photographs: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        index = shutil.copytree(made, disk / "index")
        make_read_only(disk)
        check(index, photographs, exports, tmp_path, (), "its disk is read-only")
