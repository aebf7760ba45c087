"""Files: whole or not there, and every refusal of the system as one sentence that names the file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from embedding_expansion.errors import RunError
from embedding_expansion.training.files import check_place, make_folder, read_json, write_atomically, write_json


@pytest.mark.parametrize("refusal", [OSError(28, "No space left on device"), SafetensorError("I/O: No space left")])
def test_writing_that_fails_leaves_the_old_file_and_nothing_half_written(refusal: Exception, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        assert partial.suffix != ".safetensors"
        raise refusal

    with pytest.raises(RunError, match=r"model\.safetensors cannot be written .*No space left"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_in_no_folder_or_that_is_one_is_refused_before_and_when_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "nowhere" / "x.json", tmp_path / "file" / "x.json", tmp_path):
        with pytest.raises(RunError, match=str(path)):
            check_place(path)
        with pytest.raises(RunError, match=f"{path} cannot be written"):
            write_atomically(path, lambda partial: partial.write_bytes(b"x"))
    check_place(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_a_killed_process_left_is_cleared_and_one_of_a_living_process_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (
        f"out.partial-{dead.pid}",
        f"out.partial-{os.getppid()}",
        "out.partial-x",
        f"other.partial-{dead.pid}",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"half")
    make_folder(tmp_path / "out", lambda folder: (folder / "model.onnx").write_bytes(b"whole"))
    kept = {"out", f"out.partial-{os.getppid()}", "out.partial-x", f"other.partial-{dead.pid}"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"whole"


def test_json_keeps_the_name_of_a_file_that_is_no_text(tmp_path: Path) -> None:
    for content in ({"broken": ["caf\udce9.jpg"]}, {"broken": ["café.jpg"]}):
        write_json(tmp_path / "x.json", content)
        assert read_json(tmp_path / "x.json", "") == content
    assert "café" in (tmp_path / "x.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\x00", "[" * 10**5])
def test_json_that_holds_something_else_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(RunError, match=r"x\.json .*; mend it"):
        read_json(tmp_path / "x.json", "mend it")
