"""The native form of the search: a small C library, compiled when the package is installed and a compiler is there.

Where it is not, or is turned off, `table` does the same with torch alone.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embedding_expansion.core.compiled import INSTRUCTION_SETS, off, open_library
from embedding_expansion.core.compiled import disabled as disabled
from embedding_expansion.core.search.problem import Found, Problem, least_length, smallest_square
from embedding_expansion.core.sides import Side

WORTH_THREADS = 1 << 19  # entries of a product; of less a second thread gains nothing
_TYPES = {torch.float32: "f32", torch.float64: "f64"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None where there is none, as `open_library` says."""
    return open_library(Path(__file__).parent, "_hardest", (_Problem, _Passing))


def available() -> bool:
    """Whether the native kernel will run."""
    return not off.get() and library() is not None


def describe(device: str = "cpu") -> str:
    """Which form of the search runs on a device, in words."""
    found = library()
    if not device.startswith("cpu"):
        return "torch"
    if found is None or off.get():
        return "torch (no native kernel)"
    return f"native ({list(INSTRUCTION_SETS.values())[found.instruction_set()]})"


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
        ("least_length", ctypes.c_double),
    )


class _Side(ctypes.Structure):
    _fields_ = (
        ("groups", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("first", "row", "label", "originals", "kind", "list")),
        *((name, ctypes.c_void_p) for name in ("segment", "gram_at", "gram", "barred")),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        ("rules", _Rules),
        ("product", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("left", _Side),
        ("right", _Side),
        ("symmetric", ctypes.c_int32),
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
        ("symmetric", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("ends", "weights", "value", "gradient")),
        *((name, ctypes.c_void_p) for name in ("product", "left_gram", "right_gram")),
    )


def search(problem: Problem) -> Found:
    """The hardest pairs; the same as `table.search`, but for rounding."""
    product = problem.product.contiguous()
    shape = problem.left.size.shape[0], problem.right.size.shape[0]
    ends = torch.empty(*shape, 4, dtype=torch.int32)
    weights, value = product.new_empty(*shape, 2), product.new_empty(*shape)
    given = _Problem(
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
    return Found(ends, weights, value, half=problem.symmetric)


def pass_back(problem: Problem, found: Found, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Adds to `problem.product` what the gradient of the values passes on, and gives back that of each Gram matrix."""
    to_left, to_right = torch.zeros_like(problem.left_gram), torch.zeros_like(problem.right_gram)
    given = _Passing(
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
    _call("pass_back", problem.product, ctypes.byref(given))
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
        least_length=least_length(problem.product.dtype),
    )


def _side(side: Side, gram: Tensor) -> _Side:
    """The side as the kernel reads it. The pointers are good as long as `side` and `gram` are there."""
    pointers = {name: tensor.data_ptr() for name, tensor in side.layout.numbers.items()}
    barred = None if side.barred is None else side.barred.data_ptr()
    label = side.short_label.data_ptr()
    return _Side(groups=side.label.shape[0], label=label, gram=gram.data_ptr(), barred=barred, **pointers)
