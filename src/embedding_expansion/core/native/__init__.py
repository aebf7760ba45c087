"""The native form of the search: a small C library, compiled when the package is installed and a compiler is there.

Where it is not, or is turned off, `table_search` does the same with torch alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedding_expansion.core.problem import Found, Problem, smallest_square
from embedding_expansion.core.sides import Side

INSTRUCTION_SETS = ("plain", "AVX2", "AVX-512")
_TYPES = {torch.float32: "f32", torch.float64: "f64"}
_off = False


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None where the package was installed without it or EMBEX_NATIVE is 0."""
    if os.environ.get("EMBEX_NATIVE") == "0":
        return None
    for path in sorted(Path(__file__).parent.glob("_hardest*.so")):
        with contextlib.suppress(OSError, AttributeError):
            found = ctypes.CDLL(str(path))
            found.instruction_set.restype = ctypes.c_int32
            return found
    return None


def available() -> bool:
    """Whether the native kernel will run."""
    return not _off and library() is not None


def describe() -> str:
    """Which form of the search runs here, in words."""
    found = library()
    if found is None or _off:
        return "torch (no native kernel)"
    return f"native ({INSTRUCTION_SETS[found.instruction_set()]})"


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Within it the search runs in torch, to compare the two."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def takes(product: Tensor) -> bool:
    """Whether the native kernel can work on this product."""
    return product.device.type == "cpu" and product.dtype in _TYPES and available()


class _Rules(ctypes.Structure):
    _fields_ = (
        ("n", ctypes.c_int32),
        ("infinite", ctypes.c_int32),
        ("normalize", ctypes.c_int32),
        ("euclidean", ctypes.c_int32),
        ("smallest", ctypes.c_double),
    )


class _Side(ctypes.Structure):
    _fields_ = (
        ("groups", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("first", "row", "label", "place", "originals", "kind", "list")),
        *((name, ctypes.c_void_p) for name in ("segment", "own_at", "own", "barred")),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        ("rules", _Rules),
        ("product", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("left", _Side),
        ("right", _Side),
        ("symmetric", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("ends", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
    )


class _Passing(ctypes.Structure):
    _fields_ = (
        ("rules", _Rules),
        ("left", _Side),
        ("right", _Side),
        ("stride", ctypes.c_int64),
        ("columns", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("ends", "weights", "value", "gradient")),
        *((name, ctypes.c_void_p) for name in ("product", "left_own", "right_own")),
    )


def search(problem: Problem) -> Found:
    """The hardest pairs; the same as `table_search.search`, but for rounding."""
    product = problem.product.contiguous()
    rows, columns = len(problem.left.place), len(problem.right.place)
    ends = torch.zeros(rows, columns, 4, dtype=torch.int32)
    weights, value = product.new_zeros(rows, columns, 2), product.new_zeros(rows, columns)
    kept: list[Tensor] = []
    given = _Problem(
        rules=_rules(problem),
        product=product.data_ptr(),
        stride=product.shape[1],
        left=_side(problem.left, problem.left_own, kept),
        right=_side(problem.right, problem.right_own, kept),
        symmetric=problem.symmetric,
        columns=columns,
        ends=ends.data_ptr(),
        weights=weights.data_ptr(),
        value=value.data_ptr(),
    )
    _call("search", product, ctypes.byref(given), torch.get_num_threads())
    return Found(ends, weights, value)


def pass_back(problem: Problem, found: Found, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Adds to `problem.product` what the gradient of the values passes on, and gives back that of each `own`."""
    to_left, to_right = torch.zeros_like(problem.left_own), torch.zeros_like(problem.right_own)
    kept: list[Tensor] = []
    given = _Passing(
        rules=_rules(problem),
        left=_side(problem.left, problem.left_own, kept),
        right=_side(problem.right, problem.right_own, kept),
        stride=problem.product.shape[1],
        columns=len(problem.right.place),
        ends=found.ends.data_ptr(),
        weights=found.weights.data_ptr(),
        value=found.value.data_ptr(),
        gradient=gradient.data_ptr(),
        product=problem.product.data_ptr(),
        left_own=to_left.data_ptr(),
        right_own=to_right.data_ptr(),
    )
    anchors_share_rows = problem.left.originals is not None
    _call("pass_back", problem.product, ctypes.byref(given), torch.get_num_threads(), int(anchors_share_rows))
    return to_left, to_right


def _call(name: str, product: Tensor, *given: Any) -> None:
    if not getattr(library(), f"{name}_{_TYPES[product.dtype]}")(*given):
        raise MemoryError("the search for the hardest pairs has run out of memory")


def _rules(problem: Problem) -> _Rules:
    rules = problem.rules
    return _Rules(
        n=rules.count,
        infinite=rules.n > rules.count,
        normalize=rules.normalize,
        euclidean=rules.metric == "euclidean",
        smallest=smallest_square(problem.product.dtype),
    )


def _side(side: Side, own: Tensor, kept: list[Tensor]) -> _Side:
    """The side as the kernel reads it; the tensors that it points to are added to `kept`."""
    counts = torch.tensor([0, *(len(segments) for segments in side.segments)])
    fields = {
        "first": torch.cat([side.first, torch.tensor([len(side.member)])]).int(),
        "row": side.member.int(),
        "label": side.label.int(),
        "place": side.place.int(),
        "originals": (side.size if side.originals is None else torch.full_like(side.size, side.originals)).int(),
        "kind": torch.unique(side.size, return_inverse=True)[1].int(),
        "list": counts.cumsum(0).int(),
        "segment": torch.cat([segments.flatten() for segments in side.segments]).int(),
        "own_at": side.own_at,
        "own": own,
        "barred": None if side.barred is None else side.barred.to(torch.uint8),
    }
    fields = {name: None if tensor is None else tensor.contiguous() for name, tensor in fields.items()}
    kept += [tensor for tensor in fields.values() if tensor is not None]
    pointers = {name: None if tensor is None else tensor.data_ptr() for name, tensor in fields.items()}
    return _Side(groups=len(side.size), **pointers)
