"""Results of functions that are kept for the next call, because batches of a training run repeat few patterns.

The key consists of all arguments, so that one pattern cannot be mistaken for another.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")
RESULTS = 4  # of each function
read_by_graphs: list[Any] = []  # what CUDA graphs read, which must live as long as they do


def capturing() -> bool:
    """Whether a CUDA graph is being captured. A tensor that is made then has no values yet."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def kept(function: Callable[..., R]) -> Callable[..., R]:
    """Keeps the last few results of a function of numbers and a device, where there are values to keep.

    A result with a tensor that somebody has changed in place is made again. A CUDA graph reads what was kept before.
    """
    results: dict[tuple[Any, ...], tuple[R, list[int]]] = {}
    lock = threading.Lock()

    @functools.wraps(function)
    def call(*given: Any) -> R:
        if type(torch.empty(0)) is not Tensor:  # in `FakeTensorMode`
            return function(*given)
        captured = capturing()
        with lock:
            known = results.pop(given, None)
            if known is not None and _versions(known[0]) == known[1]:
                results[given] = known  # as the last
                if captured:
                    read_by_graphs.append(known[0])
                return known[0]
        with torch.inference_mode(False):  # an inference tensor would be of no use to autograd
            found = function(*given)
        if not captured:
            with lock:
                results[given] = found, _versions(found)
                while len(results) > RESULTS:
                    del results[next(iter(results))]
        return found

    return call


def _versions(found: Any) -> list[int]:
    """How often each tensor has been changed in place; of dataclasses and tuples, their tensors."""
    if isinstance(found, Tensor):
        return [found._version]
    if is_dataclass(found):
        found = tuple(getattr(found, field.name) for field in fields(found))
    return [version for part in found for version in _versions(part)] if isinstance(found, tuple) else []
