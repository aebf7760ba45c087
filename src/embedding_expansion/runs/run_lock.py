"""A lock that allows one writer per run folder, and that the system releases when its process ends.

It is `flock` on the file `lock` in the folder. A crash leaves nothing to clean up; the file itself stays and names the
last writer. On NFS, Linux passes the lock on to the server, so it works between machines, unless the file system was
mounted with `nolock` or `local_lock=flock`; then it works between the processes of one machine only. On file systems
without locks, no lock is taken.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from embedding_expansion.errors import RunError

#: The name of the lock file.
LOCK = "lock"
_LOOK_AGAIN = 0.05  # seconds between two attempts to take a lock
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LockHeld(RunError):
    """Another process holds the lock."""


class RunLock:
    """A context manager that holds the lock of a run folder.

    Args:
        folder: the existing run folder.
        instead: the end of the error sentence: what to do if another process holds the lock.
        name: the name of the lock file in the folder.

    Raises:
        LockHeld: another process holds the lock.
        RunError: the folder is not writable.
    """

    def __init__(self, folder: Path, instead: str = "wait until it has ended, or stop it", *, name: str = LOCK) -> None:
        self._folder, self._instead, self._name = folder, instead, name
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        try:
            self._file = (self._folder / self._name).open("a+", encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"{self._folder} cannot be written ({error.strerror}); make it writable, or free some space"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                self.close()
                raise LockHeld(f"{self._folder} is being written by {self._holder()}; {self._instead}") from None
        _open.add(self)
        self._sign()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock. Calling it again has no effect."""
        _open.discard(self)
        if self._file is not None:
            self._file.close()
        self._file = None

    def _sign(self) -> None:
        """Writes the holder of the lock into the file, for the error sentence of other processes."""
        if self._file is None:
            return
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        who = {"process": os.getpid(), "machine": socket.gethostname(), "since": began}
        try:
            self._file.truncate(0)
            self._file.write(json.dumps(who) + "\n")
            self._file.flush()
        except OSError:  # a full disk; the actual writes report it
            return

    def _holder(self) -> str:
        try:
            who = json.loads((self._folder / self._name).read_text(encoding="utf-8"))
            return f"process {who['process']} on {who['machine']}, since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):  # the holder has not written its name yet
            return "another process"


@contextmanager
def waiting_for(folder: Path, name: str) -> Iterator[None]:
    """Holds the lock of a name in a folder, and waits for it while another process has it.

    Raises:
        RunError: the folder is not writable.
    """
    while True:
        try:
            lock = RunLock(folder, name=name).__enter__()
        except LockHeld:
            time.sleep(_LOOK_AGAIN)
            continue
        break
    try:
        yield
    finally:
        lock.close()


@contextmanager
def writing_into(file: Path) -> Iterator[None]:
    """Holds the lock of a file's run folder; does nothing if the file is not in a run folder.

    Raises:
        RunError: another process is writing to the run folder.
    """
    if not (file.parent / LOCK).exists() or not (file.parent / "config.yaml").exists():
        yield
        return
    with RunLock(file.parent, "wait until it has ended, or pass another --out"):
        yield


_open: set[RunLock] = set()


def _release_in_child() -> None:
    """Releases locks in a forked process that loads images, so that it does not keep the lock of a killed parent."""
    for lock in list(_open):
        lock.close()


os.register_at_fork(after_in_child=_release_in_child)
