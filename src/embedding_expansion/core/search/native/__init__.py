"""The search in C for a finite n on the CPU, and its backward pass for every n.

The library is compiled when the package is installed and a compiler is present. Without it, or where it is turned off,
`table` computes the same in torch.
"""

from __future__ import annotations

import ctypes
import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedding_expansion.core.compiled import INSTRUCTION_SETS, off, open_library
from embedding_expansion.core.compiled import disabled as disabled
from embedding_expansion.core.search.problem import NEVER, SMALLEST_SQUARE, HardestPairs, Problem
from embedding_expansion.core.sides import Side

WORTH_THREADS = 1 << 19  # entries of a product; of less a second thread gains nothing
_TYPES = {torch.float32: "f32", torch.float64: "f64"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library, or None where it is missing or turned off; see `open_library`."""
    return open_library(Path(__file__).parent, "_hardest", (_NativeProblem, _NativeBackward), {"NEVER": NEVER})


def available() -> bool:
    """Whether the C library is loaded and not turned off."""
    return not off.get() and library() is not None


def describe(device: str = "cpu") -> str:
    """Which search runs on a CPU for a finite n, in words: "native (AVX-512)"; elsewhere "torch"."""
    found = library()
    if not device.startswith("cpu"):
        return "torch"
    if found is None or off.get():
        return "torch (no native kernel)"
    return f"native ({list(INSTRUCTION_SETS.values())[found.instruction_set()]})"


def takes(product: Tensor) -> bool:
    """Whether the C library supports this product: on the CPU, in single or double precision, and not a fake tensor."""
    return type(product) is Tensor and product.device.type == "cpu" and product.dtype in _TYPES and available()


class _NativeRules(ctypes.Structure):
    _fields_ = (
        ("n", ctypes.c_int32),
        ("normalize", ctypes.c_int32),
        ("euclidean", ctypes.c_int32),
        ("smallest", ctypes.c_double),
    )


class _NativeSide(ctypes.Structure):
    _fields_ = (
        ("groups", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("first", "row", "label", "originals", "kind", "list")),
        *((name, ctypes.c_void_p) for name in ("segment", "gram_at", "gram", "barred")),
    )


class _NativeProblem(ctypes.Structure):
    _fields_ = (
        ("rules", _NativeRules),
        ("product", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("left", _NativeSide),
        ("right", _NativeSide),
        ("symmetric", ctypes.c_int32),
        ("ends", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
    )


class _NativeBackward(ctypes.Structure):
    _fields_ = (
        ("rules", _NativeRules),
        ("left", _NativeSide),
        ("right", _NativeSide),
        ("stride", ctypes.c_int64),
        ("symmetric", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("ends", "weights", "value", "gradient")),
        *((name, ctypes.c_void_p) for name in ("product", "left_gram", "right_gram")),
    )


def search(problem: Problem) -> HardestPairs | None:
    """The hardest pairs for a finite n, equal to those of `table.search` up to rounding; None if it cannot run here."""
    if not takes(problem.product):
        return None
    product = problem.product.contiguous()
    shape = problem.left.label.shape[0], problem.right.label.shape[0]
    ends = torch.empty(*shape, 4, dtype=torch.int32)
    weights, value = product.new_empty(*shape, 2), product.new_empty(*shape)
    given = _NativeProblem(
        rules=_rules(problem),
        product=product.data_ptr(),
        stride=product.shape[1],
        left=_side(problem.left, problem.left_gram),
        right=_side(problem.right, problem.right_gram),
        symmetric=problem.symmetric,
        ends=ends.data_ptr(),
        weights=weights.data_ptr(),
        value=value.data_ptr(),
    )
    threads = torch.get_num_threads() if product.numel() > WORTH_THREADS else 1
    _call("search", product, ctypes.byref(given), threads)
    return HardestPairs(ends, weights, value, half=problem.symmetric)


def backward(problem: Problem, found: HardestPairs, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The backward pass of the search; the same as `table.backward`."""
    to_left, to_right = torch.zeros_like(problem.left_gram), torch.zeros_like(problem.right_gram)
    given = _NativeBackward(
        rules=_rules(problem),
        left=_side(problem.left, problem.left_gram),
        right=_side(problem.right, problem.right_gram),
        stride=problem.product.shape[1],
        symmetric=problem.symmetric,
        ends=found.ends.data_ptr(),
        weights=found.weights.data_ptr(),
        value=found.value.data_ptr(),
        gradient=gradient.data_ptr(),
        product=problem.product.data_ptr(),
        left_gram=to_left.data_ptr(),
        right_gram=to_right.data_ptr(),
    )
    _call("backward", problem.product, ctypes.byref(given))
    return to_left, to_right


def _call(name: str, product: Tensor, *given: Any) -> None:
    if not getattr(library(), f"{name}_{_TYPES[product.dtype]}")(*given):
        raise MemoryError("the search for the hardest pairs has run out of memory")


def _rules(problem: Problem) -> _NativeRules:
    rules = problem.rules
    return _NativeRules(
        n=0 if rules.n == math.inf else int(rules.n),  # the backward pass does not read it
        normalize=rules.normalize,
        euclidean=rules.metric == "euclidean",
        smallest=SMALLEST_SQUARE[problem.product.dtype],
    )


def _side(side: Side, gram: Tensor) -> _NativeSide:
    """The side as the C code reads it; valid as long as `side` and `gram` are alive."""
    pointers = {name: tensor.data_ptr() for name, tensor in side.layout.numbers.items()}
    barred = None if side.barred is None else side.barred.data_ptr()
    label = side.short_label.data_ptr()
    return _NativeSide(groups=side.label.shape[0], label=label, gram=gram.data_ptr(), barred=barred, **pointers)
