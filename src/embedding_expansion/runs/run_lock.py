"""One writer a run folder: a lock that ends with its process, however that ends.

It is `flock` on a file `lock` in the folder. The system releases it, so that a crash leaves nothing to clean up; the
file itself stays and says who wrote last. On NFS Linux passes the lock on to the server, so that it holds between
machines, unless it was mounted with `nolock` or `local_lock=flock`; then it holds between the processes of one machine
only. A file system that knows no locks is written without one.
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

#: The file, beside the others of a run.
LOCK = "lock"
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """The right to write into a run folder, while it is entered.

    Args:
        folder: of the run, which exists.
        instead: what somebody can do who does not get it, as the end of the sentence.

    Raises:
        RunError: another process has it, or the folder cannot be written.
    """

    def __init__(self, folder: Path, instead: str = "wait until it has ended, or stop it") -> None:
        self._folder, self._instead = folder, instead
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        try:
            self._file = (self._folder / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"{self._folder} cannot be written ({error.strerror}); make it writable, or make room"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                self.close()
                raise RunError(f"{self._folder} is being written by {self._holder()}; {self._instead}") from None
        _open.add(self)
        self._sign()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets go; a second time does nothing."""
        _open.discard(self)
        if self._file is not None:
            self._file.close()
        self._file = None

    def _sign(self) -> None:
        """Notes who has the lock, for the sentence that others get."""
        if self._file is None:
            return
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        who = {"process": os.getpid(), "machine": socket.gethostname(), "since": began}
        try:
            self._file.truncate(0)
            self._file.write(json.dumps(who) + "\n")
            self._file.flush()
        except OSError:  # a full disk; what is worth a sentence will say so
            return

    def _holder(self) -> str:
        try:
            who = json.loads((self._folder / LOCK).read_text(encoding="utf-8"))
            return f"process {who['process']} on {who['machine']}, since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):  # it has not signed yet
            return "another process"


@contextmanager
def writing_into(file: Path) -> Iterator[None]:
    """Holds the lock of the run folder that a file lies in, where it lies in one.

    Raises:
        RunError: another process writes there.
    """
    if not (file.parent / LOCK).exists() or not (file.parent / "config.yaml").exists():
        yield
        return
    with RunLock(file.parent, "wait until it has ended, or name another place with --out"):
        yield


_open: set[RunLock] = set()


def _let_go_in_child() -> None:
    """A process that loads images shall not keep the lock of the one that started it, when that is killed."""
    for lock in list(_open):
        lock.close()


os.register_at_fork(after_in_child=_let_go_in_child)
