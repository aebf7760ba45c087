"""Ends a child process together with its parent, even if the parent is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with(parent: int) -> None:
    """Asks Linux to kill this process when its parent ends. On other systems, this does nothing.

    Linux watches the thread that started this process, so that thread should live as long as the parent.

    Args:
        parent: the id of the parent process. If it has already ended, this process exits at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
