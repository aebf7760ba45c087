"""Files that are whole or not there: written beside their place and moved to it in one step.

`write_atomically`, `write_json` and `make_folder` write what a user has named, `replacing` a file in a folder of this
package. An output that cannot be replaced, such as a pipe, /dev/null or /dev/stdout, has the bytes written into it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from embedding_expansion.errors import RunError

#: How long an output that is a pipe waits for its reader.
READER_SECONDS = 10.0
_LONG_NAME = 128  # bytes; the partial file of a longer name has a digest for a name, as 255 bytes are the most
_LINKS = 40  # followed at most, as Linux does
_DIGITS = 9  # of the number of an open file, at most
_WRITE_BITS = 0o222


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path of a partial file beside `path`, and moves that file to `path` when the block ends without error.

    A kill at any moment leaves the old file or the new one. A file that is replaced passes on its mode and, where the
    system allows it, its owner; a new file has the mode that the umask gives. The partial file is removed when the
    block fails. What a killed process has left of it is removed the next time that the same file is written. Two
    threads of one process must not write the same file at once.

    Raises:
        OSError: the file cannot be written; the old one stays.
    """
    _clear_left(path)
    partial = _partial(path)
    try:
        there = _status(path)
        # The file is made anew: a link in its place is not followed, and nobody else reads what will be private.
        mode = 0o666 if there is None else 0o600
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as made:
            new = os.fstat(made.fileno())
        yield partial  # the block may put another file there, of another mode
        _sync(partial)
        _keep_rights(partial, there or new)
        partial.replace(path)
    finally:
        _remove(partial)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes an output of a user in one step: `write` fills a partial file, which then replaces `path`.

    Links are followed, and the file they lead to is replaced; see `replacing` for its mode and owner. A pipe, a device
    or an open file gets the bytes once `write` is done. A reader of a pipe may leave early.

    Raises:
        RunError: the file cannot be written, as on a full disk, is read-only, or is a pipe without a reader; the old
            file stays.
    """
    target = file_target(path)
    try:
        if target.is_stream:
            _write_into(target, write)
        else:
            with replacing(target.path) as partial:
                write(partial)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror or error}); make room for it, or name another place"
        ) from error


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
    """Makes a folder in one step: `fill` puts files into a partial folder beside `path`, which then replaces it.

    Links are followed. An empty folder may exist at `path`; the new one keeps its mode and owner. What a killed process
    has left of a partial folder is removed the next time that the same folder is made.

    Raises:
        RunError: the folder exists and is not empty, or cannot be written.
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


def check_free(path: Path) -> None:
    """Checks before any work is done that a folder can be made.

    Raises:
        RunError: something exists at `path`, or the folder around it does not exist or is not writable.
    """
    folder_target(path)


def check_place(path: Path) -> None:
    """Checks before any work is done that a file can be written.

    Raises:
        RunError: `path` is a folder, a socket or read-only, or its folder does not exist or is not writable.
    """
    file_target(path)


def write_json(path: Path, content: object) -> None:
    """Writes JSON atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8
        text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: of the file.
        remedy: what to do about a broken file, as the end of the sentence.

    Raises:
        RunError: the file holds something else, or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds a {type(content).__name__} where a JSON object is expected; {remedy}")
    return content


@dataclass(frozen=True)
class Target:
    """Where an output goes.

    Attributes:
        path: of the file, with links resolved; as given for a pipe, a device or an open file.
        there: the status of what exists there, or None.
        descriptor: the number of the open file that the path names, as /dev/stdout names 1, or None.
    """

    path: Path
    there: os.stat_result | None
    descriptor: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the output is a pipe, a device or an open file, which takes bytes and cannot be replaced."""
        return self.descriptor is not None or (self.there is not None and not stat.S_ISREG(self.there.st_mode))


def file_target(path: Path) -> Target:
    """Where a file is to be written, once it is known that it can be.

    Raises:
        RunError: the path is a folder, a socket or read-only, or its folder does not exist or is not writable.
    """
    try:
        target = _target(path)
        refusal = _refusal(target)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror or error}); name another place") from error
    if refusal:
        raise RunError(f"{path} cannot be written, {refusal}")
    return target


def folder_target(path: Path) -> Target:
    """Where a folder is to be made, once it is known that it can be; an empty folder may exist there.

    Raises:
        RunError: something else exists there, or the folder around it does not exist or is not writable.
    """
    try:
        target = Target(Path(os.path.realpath(path)), _status(path))
        if target.there is not None and not (stat.S_ISDIR(target.there.st_mode) and not os.listdir(target.path)):
            raise RunError(f"{path} exists and is not empty; name a new folder")
        refusal = _refusal_of_empty_folder(target) or _refusal_around(target.path)
    except OSError as error:
        raise RunError(f"{path} cannot be made ({error.strerror or error}); name another place") from error
    if refusal:
        raise RunError(f"{path} cannot be made, {refusal}")
    return target


def open_stream(target: Target) -> BinaryIO:
    """Opens a pipe, a device or an open file for writing; a pipe is given ten seconds to get a reader.

    Raises:
        RunError: the pipe has no reader.
        OSError: it cannot be opened.
    """
    if target.descriptor is not None:
        return os.fdopen(os.dup(target.descriptor), "wb")
    end = time.monotonic() + READER_SECONDS
    while True:
        try:
            descriptor = os.open(target.path, os.O_WRONLY | os.O_NONBLOCK)  # which does not wait for ever
        except OSError as error:
            if error.errno != errno.ENXIO or not _is_pipe(target):
                raise
            if time.monotonic() > end:
                raise RunError(
                    f"{target.path} cannot be written, nobody has begun to read this pipe within {READER_SECONDS:g} "
                    "seconds; start its reader first"
                ) from error
            time.sleep(0.02)
        else:
            os.set_blocking(descriptor, True)
            return os.fdopen(descriptor, "wb")


def _is_pipe(target: Target) -> bool:
    return target.there is not None and stat.S_ISFIFO(target.there.st_mode)


def _target(path: Path) -> Target:
    descriptor = _descriptor(path)
    if descriptor is not None:
        return Target(path, os.fstat(descriptor), descriptor)
    there = _status(path)
    is_file = there is None or stat.S_ISREG(there.st_mode)
    return Target(Path(os.path.realpath(path)) if is_file else path, there)


def _status(path: Path) -> os.stat_result | None:
    """The status of what exists at a path, links followed, or None; None also for a link to a missing file."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _descriptor(path: Path) -> int | None:
    """The number of the open file of this process that a path names, as /dev/stdout and /dev/fd/3 do, or None.

    Opening such a path would open its file a second time and overwrite what was written through the first.
    """
    open_files = os.path.realpath("/dev/fd")
    name = os.fspath(path)
    for _ in range(_LINKS):
        folder, last = os.path.split(name)
        if last.isdecimal() and len(last) <= _DIGITS and os.path.realpath(folder) == open_files:
            return int(last)
        if not os.path.islink(name):
            break
        name = os.path.join(folder, os.readlink(name))
    return None


def _refusal(target: Target) -> str:
    """Why the target cannot be written, and what to do; empty if it can."""
    there = target.there
    if there is None:
        return _refusal_around(target.path)
    if stat.S_ISDIR(there.st_mode):
        return "it is a folder; name the file to write"
    if target.descriptor is not None:
        is_for_reading = fcntl.fcntl(target.descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        return "it is open for reading only; name another place" if is_for_reading else ""
    if stat.S_ISSOCK(there.st_mode):
        return "it is a socket; name a file or a pipe"
    if not there.st_mode & _WRITE_BITS or not _may(target.path, os.W_OK):  # the system lets root write anyway
        return "it is read-only; make it writable, or name another place"
    return "" if target.is_stream else _refusal_around(target.path)


def _refusal_of_empty_folder(target: Target) -> str:
    if target.there is None:
        return ""
    if not target.there.st_mode & _WRITE_BITS:
        return "it is a read-only folder; make it writable, or name another place"
    if os.path.ismount(target.path) or os.path.samefile(target.path, "."):
        return "it is the current folder or the root of a disk, which cannot be replaced; name a new folder in it"
    return ""


def _refusal_around(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}; make it, or name another place"
    if not _may(folder, os.W_OK | os.X_OK):
        return f"its folder {folder} is not writable; name another place"
    return ""


def _may(path: Path, what: int) -> bool:
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)


def _stem(path: Path) -> str:
    """How the names of partial files of this place start."""
    name = os.fsencode(path.name)
    return path.name if len(name) < _LONG_NAME else hashlib.sha256(name).hexdigest()[:32]


def _partial(path: Path) -> Path:
    """Where a file or folder is made before it is moved to its place."""
    return path.with_name(f"{_stem(path)}.partial-{os.getpid()}")


def _clear_left(path: Path) -> None:
    """Removes the partial files that killed processes have left beside this place, as far as permissions allow."""
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
    """Whether another process of this number runs on this machine."""
    if process == os.getpid():  # a killed process had the same number
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _keep_rights(partial: Path, rights: os.stat_result) -> None:
    """Gives the partial file a mode and, where the system allows it, an owner."""
    made = partial.stat()
    if (made.st_uid, made.st_gid) != (rights.st_uid, rights.st_gid):
        for owner in (rights.st_uid, -1):  # the group alone may be allowed
            with contextlib.suppress(OSError):
                os.chown(partial, owner, rights.st_gid)
                break
    partial.chmod(stat.S_IMODE(rights.st_mode))
