"""A process that ends with the one that started it, even when that is killed and can tell nobody."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with(parent: int) -> None:
    """Asks the system to end this process when its parent ends; Linux only, elsewhere it does nothing.

    Linux watches the thread that started this process, so that thread should live as long as the parent.

    Args:
        parent: the process that started this one. If it has ended already, so does this one, at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
