"""Labels and row numbers as plain numbers, beside the tensors that hold them.

Which pairs a loss compares, and the plan of the search, follow from labels and row numbers. They are computed on the
CPU and sent to the GPU, so that no step waits for it. For that, the numbers in a tensor of a GPU must be known. They
are remembered for the tensors that are made here; those of a tensor of a caller are read once, with a wait, and
remembered until the tensor is changed.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

T = TypeVar("T")
Numbers = tuple[int, ...]


class _Known(NamedTuple):
    tensor: weakref.ref[Tensor]
    version: int
    numbers: Numbers


_known: dict[int, _Known] = {}


def remember(tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    """Remembers the numbers in a tensor for as long as it is not changed; returns the tensor."""
    if not tensor.is_inference():  # otherwise nobody counts its changes
        key = id(tensor)
        reference = weakref.ref(tensor, lambda _: _known.pop(key, None))
        _known[key] = _Known(reference, tensor._version, tuple(numbers))
    return tensor


def numbers_of(tensor: Tensor) -> Numbers | None:
    """The numbers in a tensor if they can be had without waiting for a GPU, otherwise None; None in compiled code."""
    if torch.compiler.is_compiling():
        return None
    known = _known.get(id(tensor))
    if known is not None and known.tensor() is tensor and known.version == tensor._version:
        return known.numbers
    # Of the CPU they are read again: NumPy may have changed them, which torch does not count.
    return _listed(tensor) if type(tensor) is Tensor and tensor.device.type == "cpu" else None


def read(tensor: Tensor) -> Numbers:
    """The numbers in a tensor; waits for a GPU if they are not known."""
    found = numbers_of(tensor)
    if found is None:
        found = _listed(tensor)
        remember(tensor, found)
    return found


def _listed(tensor: Tensor) -> Numbers:
    found = tensor.tolist()  # without `flatten`, of which torch.func would make a tensor without storage
    return tuple(found) if isinstance(found, list) else (found,)


def sent(numbers: Sequence[int], device: torch.device) -> Tensor:
    """A remembered int64 tensor of these numbers, without waiting for its device."""
    return remember(_sent(torch.int64, list(numbers), (len(numbers),), device), numbers)


def _sent(dtype: torch.dtype, values: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if device.type == "cpu" or are_fake():
        return torch.tensor(values, dtype=dtype, device=device).view(shape)
    return torch.tensor(values, dtype=dtype).view(shape).to(device, non_blocking=True)


def are_fake() -> bool:
    """Whether tensors are fake now, without values."""
    return type(torch.empty(0)) is not Tensor


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Makes tensors on the CPU and with values within the context, in `FakeTensorMode` as well, outside autograd."""
    with unset_fake_temporarily(), torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        yield


def moved(found: T, device: torch.device) -> T:
    """Tensors of the CPU, and the dataclasses and tuples that hold them, sent to a device without waiting for it.

    What is the same object stays the same object. A dataclass may name cached properties in `sent_along`.
    """
    return found if device.type == "cpu" and not are_fake() else _moved(found, device, {})


def _moved(found: Any, device: torch.device, done: dict[int, Any]) -> Any:
    if id(found) in done:
        return done[id(found)]
    result = found
    if isinstance(found, Tensor):
        if device.type == "cpu" or are_fake():
            result = _sent(found.dtype, found.tolist(), tuple(found.shape), device)
        else:
            result = found.to(device, non_blocking=True)
    elif isinstance(found, tuple):
        parts = [_moved(part, device, done) for part in found]
        result = type(found)(*parts) if hasattr(found, "_fields") else tuple(parts)
    elif is_dataclass(found) and not isinstance(found, type):
        names = [field.name for field in fields(found)]
        result = replace(found, **{name: _moved(getattr(found, name), device, done) for name in names})
        for name in getattr(type(found), "sent_along", ()):
            with on_cpu():
                part = getattr(found, name)
            result.__dict__[name] = _moved(part, device, done)
    done[id(found)] = result
    return result
