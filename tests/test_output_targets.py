"""Outputs go to what they name: files, links, pipes, devices, open files; and refusals come before any work."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from embedding_expansion import files
from embedding_expansion.errors import RunError
from embedding_expansion.files import check_free, check_place, make_folder, write_atomically
from embedding_expansion.model.weights import save_tensors

LONG = "é" * 127 + "n"  # 255 bytes


def write(path: Path, content: bytes = b"new") -> None:
    check_place(path)
    write_atomically(path, lambda partial: partial.write_bytes(content))


def refused(path: Path, reason: str) -> None:
    """Both before the work and after it, and nothing is left."""
    before = sorted(os.listdir(path.parent)) if path.parent.is_dir() else None
    for attempt in (check_place, write):
        with pytest.raises(RunError, match=f"cannot be written.*{reason}"):
            attempt(path)
    assert before == (sorted(os.listdir(path.parent)) if path.parent.is_dir() else None)


@contextmanager
def another_user() -> Iterator[None]:
    """Not root, whom the system lets do everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_pipe_stays_a_pipe_and_its_reader_has_the_bytes(tmp_path: Path) -> None:
    pipe, content = tmp_path / "pipe", os.urandom(300_000)  # more than a pipe holds
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write(pipe, content)
    reader.join(60)
    assert found == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_reader_of_a_pipe_that_leaves_has_had_what_it_wanted(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def read_a_little() -> None:
        with pipe.open("rb", buffering=0) as opened:
            opened.read(10)

    reader = threading.Thread(target=read_a_little)
    reader.start()
    write(pipe, bytes(10_000_000))
    reader.join(60)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads_is_a_sentence_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "READER_SECONDS", 0.1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_place(pipe)
    with pytest.raises(RunError, match=r"nobody has begun to read this pipe within 0\.1 seconds; start its reader"):
        write(pipe)


def test_devices_take_the_bytes_and_stay_devices(tmp_path: Path) -> None:
    before = os.stat("/dev/null")
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (Path("/dev/null"), link):
        write(path)
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_rdev, after.st_ino) == (before.st_mode, before.st_rdev, before.st_ino)
    assert link.is_symlink()
    check_place(Path("/dev/full"))
    with pytest.raises(RunError, match=r"/dev/full cannot be written \(No space left on device\)"):
        write(Path("/dev/full"))


def test_a_device_of_our_own_stays_one(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_bytes(b"may be forbidden by the way the disk is mounted")
    except PermissionError:
        pytest.skip("device nodes cannot be made here; the test above has the system's")
    write(device)
    assert stat.S_ISCHR(device.stat().st_mode)


OPEN_FILES = """
import os, sys
from pathlib import Path
from embedding_expansion.files import check_place, write_atomically
from embedding_expansion.model.weights import save_tensors
for name in sys.argv[1:]:
    print("before")
    check_place(Path(name))
    write_atomically(Path(name), lambda partial: partial.write_bytes(b"bytes\\n"))
    print("after")
"""


def test_stdout_is_written_where_it_stands_as_a_pipe_and_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    names = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"]
    command = [sys.executable, "-c", OPEN_FILES, *names]
    piped = subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=tmp_path)
    assert piped.stdout == b"before\nbytes\nafter\n" * len(names)
    log = tmp_path / "log"
    log.write_bytes(b"earlier\n")
    with log.open("ab") as file:
        subprocess.run(command, stdout=file, check=True, timeout=60, cwd=tmp_path)
    assert log.read_bytes() == b"earlier\n" + piped.stdout
    assert sorted(os.listdir(tmp_path)) == ["link", "log"]


def test_an_open_file_that_is_none_or_only_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with (tmp_path / "file").open("rb") as opened:
        number = opened.fileno()
        with pytest.raises(RunError, match="open for reading only"):
            write(Path(f"/dev/fd/{number}"))
    for name in (f"/dev/fd/{number}", "/dev/fd/" + "9" * 30):
        with pytest.raises(RunError, match="cannot be written"):
            write(Path(name))
    assert (tmp_path / "file").read_bytes() == b"old"


def test_links_are_followed_and_what_they_lead_to_is_replaced(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "file").write_bytes(b"old")
    before = (store / "file").stat().st_ino
    (tmp_path / "second").symlink_to("store/file")
    (tmp_path / "first").symlink_to("second")
    write(tmp_path / "first")
    assert (store / "file").read_bytes() == b"new"
    assert (store / "file").stat().st_ino != before  # put in place at once, not written over
    assert os.readlink(tmp_path / "first") == "second"
    assert os.readlink(tmp_path / "second") == "store/file"
    (tmp_path / "dangling").symlink_to("store/to come")
    write(tmp_path / "dangling")
    assert (store / "to come").read_bytes() == b"new"
    assert sorted(os.listdir(store)) == ["file", "to come"]
    assert sorted(os.listdir(tmp_path)) == ["dangling", "first", "second", "store"]


def test_links_that_lead_nowhere_and_sockets_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "lost").symlink_to("no folder/file")
    (tmp_path / "to folder").symlink_to(tmp_path)
    for name, reason in (
        ("circle", "symbolic links"),
        ("lost", "there is no folder .*no folder; make it"),
        ("to folder", "it is a folder"),
        ("n" * 256, "File name too long"),
        ("circle/x", "symbolic links"),
    ):
        refused(tmp_path / name, reason)
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listening:  # of at most 107 bytes
        listening.bind(f"{short}/socket")
        refused(Path(short) / "socket", "it is a socket; name a file or a pipe")


def test_the_mode_and_the_owner_of_a_file_are_kept(tmp_path: Path) -> None:
    owner = (12345, 23456) if os.geteuid() == 0 else (os.geteuid(), (os.getgroups() or [os.getegid()])[-1])
    for mode in (0o600, 0o640, 0o664, 0o755, 0o200):
        path = tmp_path / f"{mode:o}"
        path.write_bytes(b"old")
        os.chown(path, *owner)
        path.chmod(mode)
        write(path)
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == mode
        assert (found.st_uid, found.st_gid) == owner
        path.chmod(0o600)
        assert path.read_bytes() == b"new"


def test_what_is_private_is_so_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.write_bytes(b"old")
    path.chmod(0o600)
    modes: list[int] = []

    def fill(partial: Path) -> None:
        partial.write_bytes(b"new")
        modes.append(stat.S_IMODE(partial.stat().st_mode))

    write_atomically(path, fill)
    assert modes == [0o600]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_and_a_new_folder_have_the_mode_of_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "new")
        make_folder(tmp_path / "folder", lambda folder: None)
        save_tensors(tmp_path / "tensors", {"one": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "tensors").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_a_read_only_file_is_respected_whoever_writes(public: Path) -> None:
    path = public / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    refused(path, "it is read-only; make it writable")
    link = public / "link"
    link.symlink_to(path)
    refused(link, "it is read-only")
    path.chmod(0o644)
    os.chown(path, os.geteuid(), -1)
    if os.geteuid() == 0:  # somebody else's, whose folder is everybody's
        public.chmod(0o777)
        with another_user():
            refused(path, "it is read-only")
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_writable_is_said_before_any_work(public: Path) -> None:
    (public / "file").write_bytes(b"old")
    (public / "file").chmod(0o666)
    public.chmod(0o555)
    with another_user():
        for name in ("file", "new"):
            refused(public / name, "its folder .* is not writable; name another place")
        with pytest.raises(RunError, match=r"cannot be made, its folder .* is not writable"):
            check_free(public / "folder")


@pytest.mark.parametrize("name", ["n" * 255, LONG, os.fsdecode(b"caf\xe9 \x01\n.npz"), "x.partial-1", "*[a]?"])
def test_every_name_that_the_system_takes_is_taken(name: str, tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content
    assert os.listdir(tmp_path) == [name]
    make_folder(tmp_path / "other" / ".." / f"{name[:-1]}_", lambda folder: (folder / "x").write_bytes(b""))
    assert set(os.listdir(tmp_path)) == {name, f"{name[:-1]}_"}


def test_a_link_that_lies_where_the_file_is_made_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"old")
    (tmp_path / f"file.partial-{os.getpid()}").symlink_to("victim")
    write(tmp_path / "file")
    assert (tmp_path / "victim").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]


def test_folders_follow_links_too_and_keep_the_mode_of_an_empty_one(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "file").write_bytes(b"whole")

    (tmp_path / "empty").mkdir()
    (tmp_path / "empty").chmod(0o700)
    for name, to in (("link", "empty"), ("dangling", "to come")):
        (tmp_path / name).symlink_to(to)
        check_free(tmp_path / name)
        make_folder(tmp_path / name, fill)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / to / "file").read_bytes() == b"whole"
    assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
    assert sorted(os.listdir(tmp_path)) == ["dangling", "empty", "link", "to come"]


def test_folders_that_cannot_be_made_are_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o555)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path / "empty")
    for name, reason in (
        ("file", "exists and is not empty"),
        ("file/x", "there is no folder"),
        ("nowhere/x", "there is no folder"),
        ("circle", "symbolic links"),
        ("closed", "read-only folder"),
        ("n" * 256, "File name too long"),
        ("empty", "current folder"),
    ):
        with pytest.raises(RunError, match=reason):
            check_free(tmp_path / name)
    with pytest.raises(RunError, match="current folder"):
        check_free(Path())
