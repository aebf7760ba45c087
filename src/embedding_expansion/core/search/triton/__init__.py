"""The search in Triton on a GPU, for every n, and its backward pass: one kernel each.

Triton is part of torch's CUDA builds for Linux. Where it is missing, or where EMBEX_TRITON is 0, `table` and `infinity`
compute the same in torch. With TRITON_INTERPRET=1, Triton's interpreter runs the kernels on the CPU, for tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from embedding_expansion.core.kept import kept
from embedding_expansion.core.search.problem import LEAST_LENGTH, NEVER, SMALLEST_SQUARE, HardestPairs, Problem
from embedding_expansion.core.sides import Side

LARGEST_GROUP = 1 << 15  # members of a group; the kernels put two of them into one number
LARGEST_INDEX = 1 << 31  # entries of the Gram matrices of a side
TILE = 512  # pairs of a left point and a right group in one program
MOST_POINTS = 64  # left points at a time
WARPS = 4

_off: ContextVar[bool] = ContextVar("off", default=False)


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Turns the kernels off within the context, so that torch computes instead; used to compare the two."""
    before = _off.set(True)
    try:
        yield
    finally:
        _off.reset(before)


@functools.cache
def _installed() -> bool:
    return os.environ.get("EMBEX_TRITON") != "0" and importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def available(device: torch.device) -> bool:
    """Whether the kernels run on a device: on CUDA, or on the CPU under Triton's interpreter."""
    there = device.type == "cuda" or (device.type == "cpu" and _interpreted())
    return there and not _off.get() and _installed()


def takes(problem: Problem) -> bool:
    """Whether the kernels support this problem: in single or double precision, with groups of a bounded size."""
    product, sides = problem.product, (problem.left, problem.right)
    return (
        available(product.device)
        and (type(product) is Tensor or _is_fake(product))
        and product.dtype in SMALLEST_SQUARE
        and problem.right.barred is None
        and all(side.layout.runs and side.layout.runs[-1][0] < LARGEST_GROUP for side in sides)
        and max(problem.left_gram.shape[0], problem.right_gram.shape[0]) < LARGEST_INDEX
    )


def _is_fake(tensor: Tensor) -> bool:
    return type(tensor) is not Tensor and isinstance(tensor, FakeTensor)


class Blocks(NamedTuple):
    """What one program works on: left points at a time, right groups, and its warps."""

    points: int
    groups: int
    warps: int


@functools.cache
def blocks(points: int, groups: int) -> Blocks:
    """The sizes for left groups with this many points at most, and this many right groups.

    For classes of few images a program has few points and many classes, for large classes many points and few classes.
    """
    at_once = min(_power(points), MOST_POINTS)
    return Blocks(at_once, min(_power(groups), TILE // at_once), WARPS)


def _power(count: int) -> int:
    """The smallest power of 2 that is at least this."""
    return 1 << max(0, count - 1).bit_length()


@kept
def _weights(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Float[Tensor, " n"]]:
    """The weights of the n points of a segment; at least one entry, which is not read."""
    return ((torch.arange(1, max(n, 1) + 1, device=device, dtype=torch.float64) / (n + 1)).to(dtype),)


def search(problem: Problem) -> HardestPairs | None:
    """The hardest pairs, equal to those of the other forms up to rounding; None if the kernels do not take them."""
    if not takes(problem):
        return None
    product, (left, right), rules = problem.product.contiguous(), (problem.left, problem.right), problem.rules
    shape = left.label.shape[0], right.label.shape[0]
    ends = torch.empty(*shape, 4, dtype=torch.int32, device=product.device)
    weights, value = product.new_empty(*shape, 2), product.new_empty(*shape)
    finite = not math.isinf(rules.n)
    n = int(rules.n) if finite else 0
    size = max(k + (n if finite else 1) * len(segments) for _, _, k, segments in left.layout.buckets)
    tile = blocks(size, shape[1])
    barred = left.barred
    _launch(
        "search_points" if finite else "search_segments",
        shape,
        tile.groups,
        product,
        product.shape[1],
        _weights(n, product.dtype, product.device)[0],
        n,
        *_of_side(left)[:2],
        left.label,
        left.layout.segment,
        problem.left_gram,
        left.label if barred is None else barred,
        right.layout.table,
        right.label,
        right.layout.segment,
        problem.right_gram,
        shape[1],
        ends,
        weights,
        value,
        SYMMETRIC=problem.symmetric,
        BARRED=barred is not None,
        NEVER=NEVER,
        LEAST=LEAST_LENGTH[product.dtype],
        POINTS=tile.points,
        **_options(problem, tile),
    )
    return HardestPairs(ends, weights, value, half=problem.symmetric)


def backward(problem: Problem, found: HardestPairs, gradient: Float[Tensor, "g h"]) -> tuple[Tensor, Tensor]:
    """The backward pass of the search; the same as `table.backward`."""
    left, right, product = problem.left, problem.right, problem.product
    to_left, to_right = torch.zeros_like(problem.left_gram), torch.zeros_like(problem.right_gram)
    shape = left.label.shape[0], right.label.shape[0]
    tile = blocks(1, shape[1])
    _launch(
        "search_backward",
        shape,
        tile.groups,
        product,
        product.shape[1],
        found.ends,
        found.weights,
        found.value,
        gradient,
        *_of_side(left),
        problem.left_gram,
        to_left,
        right.layout.table,
        right.label,
        problem.right_gram,
        to_right,
        shape[1],
        SYMMETRIC=problem.symmetric,
        **_options(problem, tile),
    )
    return to_left, to_right


def _of_side(side: Side) -> tuple[Tensor, Tensor, Tensor]:
    return side.layout.table, side.layout.member, side.label


def _options(problem: Problem, tile: Blocks) -> dict[str, Any]:
    """The constants of every kernel; Triton compiles one for each of their values."""
    rules = problem.rules
    return {
        "NORMALIZE": rules.normalize,
        "EUCLIDEAN": rules.metric == "euclidean",
        "SMALLEST": SMALLEST_SQUARE[problem.product.dtype],
        "GROUPS": tile.groups,
        "num_warps": tile.warps,
        "enable_fp_fusion": True,  # the default of Triton 3.9, which warns where it is left open
    }


def _launch(name: str, shape: tuple[int, int], groups: int, product: Tensor, *given: Any, **constants: Any) -> None:
    """Runs a kernel for every left group and every `groups` right groups; not on tensors without values."""
    if _is_fake(product):
        return
    with torch.cuda.device(product.device) if product.is_cuda else contextlib.nullcontext():
        _kernels()[name][shape[0], -(-shape[1] // groups)](product, *given, **constants)


@functools.cache
def _kernels() -> dict[str, Any]:
    """The kernels by name; loading Triton takes time, so that it is loaded for the first of them."""
    from embedding_expansion.core.search.triton.finite import search_points
    from embedding_expansion.core.search.triton.gradient import search_backward
    from embedding_expansion.core.search.triton.infinite import search_segments

    return {"search_points": search_points, "search_segments": search_segments, "search_backward": search_backward}
