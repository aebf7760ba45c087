"""Files: whole or not there, and every refusal of the system as one sentence that names the file."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import embedding_expansion
from embedding_expansion.errors import RunError
from embedding_expansion.files import check_place, make_folder, read_json, replacing, write_atomically, write_json

PACKAGE = Path(embedding_expansion.__file__).parent


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_writing_that_fails_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        assert partial.suffix != ".safetensors"
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"model\.safetensors cannot be written .*No space left"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_larger_than_allowed_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from embedding_expansion.files import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomically(Path(sys.argv[1]), lambda partial: partial.write_bytes(bytes(5000)))"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert f"RunError: {path} cannot be written (File too large); make room for it" in run.stderr
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


def test_a_folder_that_a_killed_process_left_is_cleared_and_one_of_a_living_process_is_not(
    dead: int, tmp_path: Path
) -> None:
    for name in (f"out.partial-{dead}", f"out.partial-{os.getppid()}", "out.partial-x", f"other.partial-{dead}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"half")
    make_folder(tmp_path / "out", lambda folder: (folder / "model.onnx").write_bytes(b"whole"))
    kept = {"out", f"out.partial-{os.getppid()}", "out.partial-x", f"other.partial-{dead}"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"whole"


def test_a_file_that_a_killed_process_left_is_cleared_and_one_of_a_living_process_is_not(
    dead: int, tmp_path: Path
) -> None:
    left = [f"out.partial-{dead}", f"out.partial-{os.getpid()}"]  # a process before this one can have had its number
    kept = [f"out.partial-{os.getppid()}", "out.partial-x", f"other.partial-{dead}", f"xout.partial-{dead}"]
    for name in left + kept:
        (tmp_path / name).write_bytes(b"half")
    write_atomically(tmp_path / "out", lambda partial: partial.write_bytes(b"whole"))
    assert {path.name for path in tmp_path.iterdir()} == {"out", *kept}
    assert (tmp_path / "out").read_bytes() == b"whole"


KILLED = """
import os, signal, sys
from pathlib import Path
from embedding_expansion.files import write_atomically

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

def fill(partial):
    with partial.open("wb") as file:
        file.write(b"new " * 1000)
        if sys.argv[2] == "half": file.flush(), die()

if sys.argv[2] == "written": os.fsync = die
if sys.argv[2] == "in place": os.rename = Path.replace = lambda old, new: (os.replace(old, new), die())
write_atomically(Path(sys.argv[1]), fill)
"""


@pytest.mark.parametrize(("moment", "is_new"), [("half", False), ("written", False), ("in place", True)])
@pytest.mark.parametrize("name", ["report.html", "n" * 255])
def test_a_kill_leaves_the_old_file_or_the_new_one_and_what_it_left_is_cleared_the_next_time(
    moment: str, is_new: bool, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == (b"new " * 1000 if is_new else b"old")
    assert len(os.listdir(tmp_path)) == (1 if is_new else 2)
    write_atomically(path, lambda partial: partial.write_bytes(b"newer"))
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == [name]


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


def test_a_file_of_the_package_itself_is_replaced_as_well_and_its_errors_are_the_systems(tmp_path: Path) -> None:
    path = tmp_path / "structure.faiss"
    for content in (b"first", b"second"):
        with replacing(path) as partial:
            partial.write_bytes(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    with pytest.raises(OSError, match="No space left"):
        fill_half(path)
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "nowhere" / "file"):
        pass
    path.with_name("folder").mkdir()
    with pytest.raises(IsADirectoryError), replacing(path.with_name("folder")) as partial:
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"second"
    assert sorted(os.listdir(tmp_path)) == ["folder", "structure.faiss"]


def fill_half(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")


def test_no_other_module_writes_files_in_a_way_of_its_own() -> None:
    """Downloads go on in their partial file after a break, and archives are unpacked into folders: both check first.

    Of many shrunk images, what killed processes have left is removed once, and not again before each file.
    """
    own = {PACKAGE / "files.py", *(PACKAGE / "data" / name for name in ("download.py", "unpack.py", "preparing.py"))}
    found = [
        f"{path.relative_to(PACKAGE)}:{call.lineno}"
        for path in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if path not in own and isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        # `replace` with one argument is that of paths; texts take two, and `dataclasses.replace` names to change.
        if call.func.attr in ("fsync", "rename", "renames") or (call.func.attr == "replace" and _moves(call))
    ]
    assert found == []


def _moves(call: ast.Call) -> bool:
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return (isinstance(owner, ast.Name) and owner.id == "os") or (len(call.args) == 1 and not call.keywords)
