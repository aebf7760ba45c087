"""A small C library for the parts of retrieval that torch is slow at, compiled on installation if there is a compiler.

Without the library, with EMBEX_NATIVE=0, and for rows on another device, torch computes the same.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

from embedding_expansion.core.compiled import disabled as disabled
from embedding_expansion.core.compiled import off, open_library

# Constants that the C code has as well, compared when the library is loaded.
STEP = 32  # columns of a table that the kernel reads at a time; the width of a table is a multiple
MOST_RELEVANT = 128  # relevant rows of a query
WALKS = 8  # walks on a graph side by side
_TYPES = {torch.float32: "f32", torch.float64: "f64"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library, or None where it is missing or turned off; see `open_library`."""
    constants = {"STEP": STEP, "MOST_RELEVANT": MOST_RELEVANT, "WALKS": WALKS}
    return open_library(Path(__file__).parent, "_measures", (Tile, Relevant, NearestChoice, Walk), constants)


def available(device: torch.device) -> bool:
    """Whether the kernels run on rows of this device."""
    return device.type == "cpu" and not off.get() and library() is not None


def multiplies_bytes() -> bool:
    """Whether this processor has an instruction for int8 products, several times faster than products of floats."""
    found = library()
    return found is not None and bool(found.multiplies_bytes())


class Rows(ctypes.Structure):
    """Some of the rows that are compared. The fields of this and the next structures are described in `measures.c`."""

    _fields_ = (
        ("rows", ctypes.c_void_p),
        ("index", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("levels", "first_limit", "limit")),
        *((name, ctypes.c_void_p) for name in ("value", "column", "before")),
    )


class Tile(ctypes.Structure):
    """Two blocks of rows, and the table of their similarities."""

    _fields_ = (
        ("left", Rows),
        ("right", Rows),
        ("table", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("tolerance", ctypes.c_double),
        ("both", ctypes.c_int32),
        ("settled", ctypes.c_int64),
    )


class Relevant(ctypes.Structure):
    """Queries, and the positions of the gallery rows that are relevant to each."""

    _fields_ = (
        ("queries", ctypes.c_void_p),
        ("gallery", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "stride", "d")),
        ("levels", ctypes.c_int32),
        ("place", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
    )


class NearestChoice(ctypes.Structure):
    """Rows, and the centers that they may belong to."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("table", "unit", "center_unit", "half", "rows", "centers", "allowance")),
        *((name, ctypes.c_int64) for name in ("count", "k", "d")),
        *((name, ctypes.c_void_p) for name in ("nearest", "distance")),
        ("looked_at", ctypes.c_int64),
    )


class Walk(ctypes.Structure):
    """A graph, and the starts of random walks on it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("starts", "column", "weight", "source", "solution")),
        ("count", ctypes.c_int64),
        ("blocks", ctypes.c_int32),
        ("max_iterations", ctypes.c_int32),
        ("alpha", ctypes.c_double),
        ("tolerance", ctypes.c_double),
    )


def call(name: str, given: Tile | Relevant | NearestChoice | Walk, dtype: torch.dtype) -> None:
    """Runs a kernel with as many threads as torch uses. The memory that `given` points to must be contiguous."""
    if not getattr(library(), f"{name}_{_TYPES[dtype]}")(ctypes.byref(given), torch.get_num_threads()):
        raise MemoryError(f"there is no memory left to {name}")


def pointer(tensor: Tensor | None) -> int | None:
    """The address of the entries of a tensor, which must outlive the call; None for None."""
    return None if tensor is None else tensor.data_ptr()
