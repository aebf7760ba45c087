"""Files written so that nobody sees half of one, and JSON read back with one sentence for whatever is wrong with it.

A file is written beside its place and put there at once. What is no file, such as a pipe, /dev/null or /dev/stdout,
has the bytes written into it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from embedding_expansion.errors import RunError
from embedding_expansion.training.targets import Target, file_target, folder_target, open_stream

_LONG_NAME = 128  # bytes, from which on a file under way is called by a digest; a name may have 255


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, then puts it in place at once.

    Links are followed, and what they lead to is replaced. A file that is there keeps its mode and, where the system
    allows it, its owner; a new one has the mode that the umask gives. Into what is no regular file the bytes are
    written once all of them are there; if its reader leaves, it has had what it wanted. What a process that was killed
    in here has left is removed the next time that the same file is written.

    Raises:
        RunError: it cannot be written, as on a full disk, or it is read-only, or a pipe that nobody reads; what was
            there before stays.
    """
    target = file_target(path)
    try:
        if target.is_stream:
            _write_into(target, write)
        else:
            _replace(target, write)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); make room for it, or name another place"
        ) from error


def _replace(target: Target, write: Callable[[Path], object]) -> None:
    _clear_left(target.path)
    partial = _partial(target.path)
    try:
        # Made anew: a link that somebody has put there is not followed, and nobody reads what will be private.
        mode = 0o666 if target.there is None else 0o600
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as made:
            new = os.fstat(made.fileno())
        write(partial)  # which may put another file there, of another mode
        _sync(partial)
        _keep_rights(partial, target.there or new)
        partial.replace(target.path)
    finally:
        _remove(partial)


def _write_into(target: Target, write: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory(prefix="embex-") as folder:
        whole = Path(folder) / "whole"
        write(whole)
        for stream in (sys.stdout, sys.stderr):  # what was printed before comes before
            if stream is not None:
                stream.flush()
        with contextlib.suppress(BrokenPipeError), open_stream(target) as into, whole.open("rb") as content:
            shutil.copyfileobj(content, into)


def make_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """Lets `fill` put files into a folder beside `path`, then puts it in place at once.

    Links are followed. An empty folder that is there gives way, and its mode and owner are kept. What a process that
    was killed in here has left is removed the next time that the same folder is made.

    Raises:
        RunError: something is there already, or the folder cannot be written.
    """
    target = folder_target(path)
    partial = _partial(target.path)
    try:
        _clear_left(target.path)
        partial.mkdir(mode=0o777 if target.there is None else 0o700)
        new = partial.stat()
        fill(partial)
        for file in partial.rglob("*"):
            if file.is_file() and not file.is_symlink():
                _sync(file)
        _keep_rights(partial, target.there or new)
        partial.replace(target.path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror or error}); name another place") from error
    finally:
        _remove(partial)


def _stem(path: Path) -> str:
    """What files under way to this place start with."""
    name = os.fsencode(path.name)
    return path.name if len(name) < _LONG_NAME else hashlib.sha256(name).hexdigest()[:32]


def _partial(path: Path) -> Path:
    """Where a file or folder is made before it is put in its place."""
    return path.with_name(f"{_stem(path)}.partial-{os.getpid()}")


def _clear_left(path: Path) -> None:
    """Removes what processes that were killed on the way to this place have left beside it, as far as it may."""
    start = f"{_stem(path)}.partial-"
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            number = name.removeprefix(start)
            if name.startswith(start) and number.isdecimal() and not _is_another(int(number)):
                _remove(path.with_name(name))


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            left.unlink()


def _is_another(process: int) -> bool:
    """Whether there is another process of this number on this machine."""
    if process == os.getpid():  # one that was killed had the same number
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _keep_rights(partial: Path, rights: os.stat_result) -> None:
    """Gives what will be put in place a mode and, where the system allows it, an owner."""
    made = partial.stat()
    if (made.st_uid, made.st_gid) != (rights.st_uid, rights.st_gid):
        for owner in (rights.st_uid, -1):  # the group alone may be allowed
            with contextlib.suppress(OSError):
                os.chown(partial, owner, rights.st_gid)
                break
    partial.chmod(stat.S_IMODE(rights.st_mode))


def check_free(path: Path) -> None:
    """Makes sure before any work is done that a folder can be made.

    Raises:
        RunError: something is there already, or there is no folder to make it in, or none that can be written.
    """
    folder_target(path)


def check_place(path: Path) -> None:
    """Makes sure before any work is done that a file can be written.

    Raises:
        RunError: it is a folder, a socket or read-only, or its folder does not exist or cannot be written.
    """
    file_target(path)


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:  # the name of a file may be no text
        text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: of the file.
        remedy: what to do about a broken one, as the end of the sentence.

    Raises:
        RunError: it holds something else, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__} where a JSON object is expected; {remedy}")
    return content
