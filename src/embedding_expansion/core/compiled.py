"""The C libraries of this package: compiled when it is installed and a compiler is there, opened here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sysconfig
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from embedding_expansion.checks import check_name

INSTRUCTION_SETS = {"plain": "plain", "avx2": "AVX2", "avx512": "AVX-512"}  # of EMBEX_INSTRUCTIONS, ascending

off: ContextVar[bool] = ContextVar("off", default=False)


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Within it torch does what the libraries would, to compare the two."""
    before = off.set(True)
    try:
        yield
    finally:
        off.reset(before)


def open_library(folder: Path, name: str, structures: tuple[type[ctypes.Structure], ...]) -> ctypes.CDLL | None:
    """A library, or None where the package was installed without it or EMBEX_NATIVE is 0.

    EMBEX_INSTRUCTIONS is the highest instruction set to use, by default what the machine has.

    Args:
        folder: where it lies.
        name: of the file, without its ending.
        structures: those that are handed over, in the order in which its function `sizes` tells their sizes.

    Raises:
        UnknownName: if there is no such instruction set.
    """
    highest = os.environ.get("EMBEX_INSTRUCTIONS", "avx512")
    check_name("EMBEX_INSTRUCTIONS", highest, INSTRUCTION_SETS)
    if os.environ.get("EMBEX_NATIVE") == "0":
        return None
    with contextlib.suppress(OSError, AttributeError):
        found = ctypes.CDLL(str(folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"))
        found.instruction_set.restype = ctypes.c_int32
        found.use_at_most(list(INSTRUCTION_SETS).index(highest))
        # Compiled from other sources than these, as after an update in place, it would read other structures.
        sizes = (ctypes.c_int64 * len(structures))()
        found.sizes(sizes)
        if list(sizes) == [ctypes.sizeof(kind) for kind in structures]:
            return found
    return None
