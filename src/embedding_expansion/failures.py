"""Recognises failures of the machine, such as memory that ran out, in the errors of torch and of the system.

Nothing heavy is imported: errors are recognised by their names and messages.
"""

from __future__ import annotations

import errno
import re

from embedding_expansion.errors import ResourceError

_GPU = re.compile(r"out of memory", re.IGNORECASE)
_CPU = re.compile(r"DefaultCPUAllocator|can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory")
_SHARED = re.compile(r"shared memory|unable to (write|mmap|resize|allocate|open).*(/torch_|/dev/shm|shm)|Bus error")
_RANK = re.compile(r"gloo/|NCCL|clients joined|c10d|TCPStore|recvValue|sendBytes|Connection (closed|reset) by")
_TIME = re.compile(r"[Tt]imed out (?:waiting|after) (\d+) ?(ms|seconds)?|[Tt]imeout")
_LOADER = re.compile(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited)")


def failure(error: BaseException) -> ResourceError | None:
    """Turns an error that the machine caused into one sentence that says what to do.

    The causes are: the memory of this machine, of a GPU or shared between processes ran out; a process that loads
    images was killed; or another rank of a distributed run ended or no longer answers.

    Returns:
        The error to raise, or None if the given error has another cause.
    """
    if isinstance(error, ResourceError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and (type(error).__name__ == "OutOfMemoryError" or _GPU.search(text)):
        return ResourceError(
            f"the GPU has no memory left ({_first_sentences(text)}); use smaller batches or images, or stop other "
            "programs that use it"
        )
    if isinstance(error, RuntimeError) and _SHARED.search(text):
        return ResourceError(
            "the processes that load images have no shared memory left (/dev/shm); give it more (docker run --shm-size "
            "2g), or load images in one process (data.workers 0)"
        )
    if isinstance(error, RuntimeError) and (found := _LOADER.search(text)):
        return killed_loader(found[1].strip(), f" by signal {found[2].strip()}" if found[2] else "")
    if isinstance(error, RuntimeError) and (_RANK.search(text) or _is_of_ranks(error)):
        return _of_rank(text)
    if isinstance(error, MemoryError) or _is_out_of_memory(error, text):
        return ResourceError(
            "this machine has no memory left; use smaller batches or images, use fewer processes (data.workers), or "
            "stop other programs"
        )
    return None


def killed_loader(process: str, how: str = "") -> ResourceError:
    """The error for a process that loaded images and was killed.

    Args:
        process: its process id, or several of them.
        how: how it was killed, appended to "was killed".
    """
    return ResourceError(
        f"process {process}, which loaded images, was killed{how}, most likely because memory ran out; use fewer such "
        "processes (data.workers), or smaller batches or images"
    )


def _is_of_ranks(error: BaseException) -> bool:
    return any(kind.__name__ == "DistError" for kind in type(error).__mro__)


def _of_rank(text: str) -> ResourceError:
    """The error for a distributed run in which another rank ended, or did not answer in time."""
    silent = _TIME.search(text)
    if silent is None:
        return ResourceError("another process of this distributed run has ended; read its own message for the reason")
    seconds = f" for {int(silent[1]) // (1000 if silent[2] == 'ms' else 1)} seconds" if silent[1] else ""
    return ResourceError(
        f"another process of this distributed run has not answered{seconds}; check whether it hangs, or wait longer "
        "with EMBEX_RANK_PATIENCE=SECONDS"
    )


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _CPU.search(text) is not None


def _first_sentences(text: str) -> str:
    """Torch's first sentences: the size that was requested and the size that is free. Advice of torch follows them."""
    return ". ".join(text.split(". ")[:3]).rstrip(".")
