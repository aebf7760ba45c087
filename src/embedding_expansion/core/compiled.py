"""The C libraries of this package: compiled when it is installed and a compiler is there, opened here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sysconfig
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from embedding_expansion.checks import check_name
from embedding_expansion.errors import ResourceError

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


def open_library(
    folder: Path, name: str, structures: tuple[type[ctypes.Structure], ...], constants: Mapping[str, int | float]
) -> ctypes.CDLL | None:
    """Opens a library; returns None where the package was installed without it, or where EMBEX_NATIVE is 0.

    EMBEX_INSTRUCTIONS limits the instruction set, which by default is the highest that the machine has.

    Args:
        folder: the folder of the library.
        name: the name of its file, without the ending.
        structures: the structures passed to it, in the order in which its function `sizes` returns their sizes.
        constants: the constants that its C code and the Python code both have, by name; they must be equal.

    Raises:
        UnknownName: EMBEX_INSTRUCTIONS is not the name of an instruction set.
        ResourceError: a constant of the library has another value.
    """
    highest = os.environ.get("EMBEX_INSTRUCTIONS", "avx512")
    check_name("EMBEX_INSTRUCTIONS", highest, INSTRUCTION_SETS)
    if os.environ.get("EMBEX_NATIVE") == "0":
        return None
    constants = {"INSTRUCTION_SETS": len(INSTRUCTION_SETS), **constants}
    with contextlib.suppress(OSError, AttributeError, ValueError):  # ValueError: a constant that it does not export
        found = ctypes.CDLL(str(folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"))
        found.instruction_set.restype = ctypes.c_int32
        found.use_at_most(list(INSTRUCTION_SETS).index(highest))
        # A library compiled from other sources, as after an update in place, would read other structures.
        sizes = (ctypes.c_int64 * len(structures))()
        found.sizes(sizes)
        if list(sizes) != [ctypes.sizeof(kind) for kind in structures]:
            return None
        compiled = {constant: ctypes.c_double.in_dll(found, f"constant_{constant}").value for constant in constants}
        _check_constants(name, compiled, constants)
        return found
    return None


def _check_constants(name: str, compiled: Mapping[str, int | float], constants: Mapping[str, int | float]) -> None:
    for constant, value in constants.items():
        if compiled[constant] != value:
            raise ResourceError(
                f"the compiled library {name} has {constant} = {compiled[constant]:g}, but its Python code has "
                f"{value:g}; make the C source agree and compile it again (pip install .), or set EMBEX_NATIVE=0"
            )
