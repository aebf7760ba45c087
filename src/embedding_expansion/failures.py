"""What a machine does to a program, told by the errors that torch and the system make of it, and what helps.

Nothing heavy is imported: errors are known by their names and texts.
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
    """What gave out, as one sentence that says what helps; None where the error is of another kind.

    Memory of this machine or of a GPU, shared memory, a process that loads images and was killed, or one of several
    that train together and has ended or is silent.
    """
    if isinstance(error, ResourceError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, RuntimeError) and (type(error).__name__ == "OutOfMemoryError" or _GPU.search(text)):
        return ResourceError(
            "the GPU has no memory left; take smaller batches or images, or end what else runs on it "
            f"({_first_sentences(text)})"
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
            "this machine has no memory left; take smaller batches or images, fewer processes (data.workers), or end "
            "what else runs on it"
        )
    return None


def killed_loader(process: str, how: str = "") -> ResourceError:
    """Of a process that loaded images."""
    return ResourceError(
        f"process {process}, which loaded images, was killed{how}; mostly that is because memory ran out: take fewer "
        "such processes (data.workers), or smaller batches or images"
    )


def _is_of_ranks(error: BaseException) -> bool:
    return any(kind.__name__ == "DistError" for kind in type(error).__mro__)


def _of_rank(text: str) -> ResourceError:
    """Of one process that trains with others: another one has ended, or is silent for longer than it may be."""
    silent = _TIME.search(text)
    if silent is None:
        return ResourceError("another of the processes that train together has ended; its own message says why")
    seconds = f" for {int(silent[1]) // (1000 if silent[2] == 'ms' else 1)} seconds" if silent[1] else ""
    return ResourceError(
        f"another of the processes that train together has said nothing{seconds}; look whether it hangs, or wait "
        "longer with EMBEX_RANK_PATIENCE=SECONDS"
    )


def _is_out_of_memory(error: BaseException, text: str) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _CPU.search(text) is not None


def _first_sentences(text: str) -> str:
    """The size that was asked for and the size that there is; torch goes on with advice for its own variables."""
    return ". ".join(text.split(". ")[:3]).rstrip(".")
