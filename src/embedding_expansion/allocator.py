"""How the C library of Linux keeps memory that a program has freed."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the numbers of glibc's malloc.h
_LARGEST = (2**30, 2**25)  # older releases refuse more than 32 MiB


def keep_freed_memory() -> bool:
    """Makes malloc keep blocks of up to 1 GiB for the next use instead of returning them to the system.

    On the CPU, a network allocates and frees the same large tensors in every step. By default glibc takes each from the
    system and gives it back, and the system clears every page anew, which takes longer than the convolutions:
    MobileNetV2 trains 1.7 to 2.1 times as fast with this setting (docs/benchmarks.md, section 10). The process keeps
    its peak memory until it ends.

    Returns:
        Whether the setting was made; other C libraries than glibc are left alone.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  # musl has a mallopt that does nothing
        is_kept = any(libc.mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST)  # stops at the first that is taken
        return bool(libc.mallopt(_TRIM_THRESHOLD, -1)) and is_kept
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        return False
