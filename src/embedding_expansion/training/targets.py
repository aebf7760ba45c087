"""What a path that is to be written stands for: a file, a pipe, a device; and what would keep it from being written."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from embedding_expansion.errors import RunError

#: How long a pipe that is to be written waits for its reader.
READER_SECONDS = 10.0
_LINKS = 40  # followed at most, as Linux does
_DIGITS = 9  # of the number of an open file, at most
_WRITE_BITS = 0o222


@dataclass(frozen=True)
class Target:
    """What is to be written.

    Attributes:
        path: of the file itself: links are followed. Of what is no regular file, as it was given.
        there: what the system says of the file that is there; None where there is none.
        descriptor: the number of the open file that the path stands for, as /dev/stdout stands for 1; else None.
    """

    path: Path
    there: os.stat_result | None
    descriptor: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether bytes go into what is there, which is a pipe, a device or an open file and cannot be replaced."""
        return self.descriptor is not None or (self.there is not None and not stat.S_ISREG(self.there.st_mode))


def file_target(path: Path) -> Target:
    """What a path stands for, to which a file is to be written.

    Raises:
        RunError: it cannot be written: a folder, a socket, read-only, or in a folder that is not there or not writable.
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
    """What a path stands for, where a folder is to be made; an empty one that is there gives way.

    Raises:
        RunError: something is there already, or the folder around it is not there or not writable.
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
    """Opens what is no regular file for writing; of a pipe it waits ten seconds for a reader.

    Raises:
        RunError: nobody reads the pipe.
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
    """What is there, links followed; None also for a link to what is not there yet."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _descriptor(path: Path) -> int | None:
    """The number of the open file of this process that a path stands for, as /dev/stdout and /dev/fd/3 do.

    To open such a path would open the file behind it a second time and write over what the first has written.
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
    """Why the target cannot be written and what to do, or nothing."""
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
        return "it is the current folder or a disk of its own, which cannot be replaced; name a new folder in it"
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
