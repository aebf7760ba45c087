"""Checks of the arguments that users pass to the losses, and their error messages."""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, SupportsIndex, TypeAlias, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.checks import shown, whole_number
from embedding_expansion.checks import validates as validates
from embedding_expansion.core.kept import capturing, kept
from embedding_expansion.core.numbers import Numbers, are_fake, numbers_of, read, remember, sent
from embedding_expansion.errors import InvalidInput, InvalidType

P = ParamSpec("P")
R = TypeVar("R")


@runtime_checkable
class IntegerArray(Protocol):
    """An array of another library, such as NumPy, whose values are whole numbers."""

    def __len__(self) -> int: ...

    def __array__(self) -> Any: ...


Labels: TypeAlias = Int[Tensor, " b"] | Sequence[int] | IntegerArray


INSIDE = __name__.split(".")[0], "torch", "jaxtyping"  # packages whose frames a warning skips
MOST_POINTS = 100  # largest n: the search time grows with its square, and n = infinity is faster
LARGEST = 1e12  # largest absolute value of an embedding: beyond it, squared norms swamp the inner products
WIDTHS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # supported types
NUMBERED = "pass whole numbers, as numpy.unique({}, return_inverse=True)[1] gives them"


def warn_user(message: str, category: type[Warning]) -> None:
    """Issues a warning at the line that calls this package, skipping frames of this package, torch and jaxtyping."""
    if torch.compiler.is_compiling():  # a compiled graph warns of nothing
        return
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator that accepts renamed arguments (`old="new"`) by their old names, with a DeprecationWarning."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*given: P.args, **named: P.kwargs) -> R:
            for old, new in names.items():
                if old in named:
                    named[new] = check_renamed(old, named.pop(old), new, named.get(new))
            return function(*given, **named)

        return call

    return decorate


def check_renamed(old: str, value: Any, new: str, given: Any) -> Any:
    """Returns the value of an argument that is given by its old name, and issues a DeprecationWarning.

    Raises:
        InvalidInput: if the argument is given by both names.
    """
    if given is not None:
        raise InvalidInput(f"{old} and {new} are both given, and mean the same; leave {old} out")
    warn_user(f"{old} is now {new}; the old name will be removed in the next release", DeprecationWarning)
    return value


@validates
def one_reference(ref_emb: Any, ref_labels: Any, reference: Any, reference_labels: Any) -> tuple[Any, Any]:
    """The reference and its labels; `ref_emb` and `ref_labels` are other names for them.

    Raises:
        InvalidInput: if one of them is given by both names.
    """
    for theirs, ours, name in ((ref_emb, reference, "ref_emb"), (ref_labels, reference_labels, "ref_labels")):
        if theirs is not None and ours is not None:
            other = "reference" if name == "ref_emb" else "reference_labels"
            raise InvalidInput(f"{name} and {other} are both given, and mean the same; leave {name} out")
    return ref_emb if reference is None else reference, ref_labels if reference_labels is None else reference_labels


@validates
def as_batch(
    embeddings: Float[Tensor, "b d"], labels: Labels | None, *, name: str = "embeddings"
) -> tuple[Float[Tensor, "b d"], Int[Tensor, " b"]]:
    """Checks embeddings and labels; returns the labels as an int64 tensor on the device of the embeddings.

    Raises:
        InvalidInput, InvalidType: if they cannot be used; the error calls the embeddings `name`.
    """
    of = "labels" if name == "embeddings" else f"{name}_labels"
    if not isinstance(embeddings, Tensor):
        raise InvalidType(
            f"{name} is a {type(embeddings).__name__}; pass a floating tensor of shape (batch, dimensions)"
        )
    check_floating(embeddings, name)
    if embeddings.dim() != 2:
        raise InvalidInput(
            f"{name} is {embeddings.dim()}-D, of shape {tuple(embeddings.shape)}; pass a 2-D tensor of shape "
            "(batch, dimensions)"
        )
    labels = on_device(as_labels(labels, of), embeddings.device)
    if len(labels) != len(embeddings):
        raise InvalidInput(
            f"{of} has {len(labels)} entries but {name} has {len(embeddings)} rows; pass one label per row"
        )
    return embeddings, labels


def on_device(labels: Int[Tensor, " b"], device: torch.device) -> Int[Tensor, " b"]:
    """Moves labels to a device, without waiting for it where they are known as numbers."""
    if labels.device == device:
        return labels
    numbers = numbers_of(labels)
    return labels.to(device) if numbers is None else _sent(numbers, device)[0]


@kept
def _sent(numbers: Numbers, device: torch.device) -> tuple[Int[Tensor, " b"]]:
    """Labels on a device, kept because a CUDA graph can read, but not copy them."""
    return (sent(numbers, device),)


def check_floating(tensor: Tensor, name: str) -> None:
    """Raises InvalidType unless the tensor has one of the supported floating types."""
    check_readable(tensor, name)
    if not tensor.is_floating_point():
        raise InvalidType(f"{name} has dtype {tensor.dtype}; pass floating values, e.g. {name}.float()")
    if tensor.dtype not in WIDTHS:
        raise InvalidType(f"{name} has dtype {tensor.dtype}; pass 16 bits or more, e.g. {name}.float()")


def check_readable(tensor: Tensor, name: str) -> None:
    """Raises InvalidType if the tensor is nested, sparse, quantized or on the meta device."""
    if tensor.is_nested:
        raise InvalidType(
            f"{name} is a nested tensor; pass one of rows of equal length, e.g. torch.stack({name}.unbind())"
        )
    if tensor.layout != torch.strided:
        raise InvalidType(f"{name} is a sparse tensor; pass {name}.to_dense()")
    if tensor.is_quantized:
        raise InvalidType(f"{name} is a quantized tensor; pass {name}.dequantize()")
    if tensor.device.type == "meta":
        raise InvalidType(f"{name} is on the meta device and has no values; pass a tensor on the CPU or a GPU")


@validates
def as_labels(labels: Labels | None, name: str = "labels") -> Int[Tensor, " b"]:
    """Converts labels to an int64 tensor. Labels of any integer type stay distinct.

    Raises:
        InvalidInput, InvalidType: if they are not whole numbers, one per row; the error calls them `name`.
    """
    if labels is None:
        raise InvalidType(f"{name} is None; pass one whole number per row, the class of the row")
    if not isinstance(labels, Tensor):
        if isinstance(labels, (str, bytes)) or not hasattr(labels, "__len__"):
            raise InvalidType(
                f"{name} is a {type(labels).__name__}; pass a tensor, a list or an array of whole numbers"
            )
        try:
            given: Any = labels
            # Copies an array, because torch rejects negative strides.
            labels = torch.as_tensor(given.copy() if hasattr(given, "strides") else given)
            labels = labels if len(labels) else labels.long()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            for what, kinds in (("text", (str, bytes)), ("booleans", (bool,))):
                if getattr(given, "ndim", 1) and any(isinstance(label, kinds) for label in given):
                    raise InvalidType(f"{name} holds {what}; {NUMBERED.format(name)}") from error
            raise InvalidType(
                f"{name} cannot be read as whole numbers ({error}); pass one whole number per row"
            ) from error
    check_readable(labels, name)
    if labels.dtype == torch.bool:
        raise InvalidType(f"{name} holds booleans; {NUMBERED.format(name)}")
    if labels.is_floating_point() or labels.is_complex():
        raise InvalidType(f"{name} has dtype {labels.dtype}; pass whole numbers, e.g. {name}.long()")
    if labels.dim() != 1:
        raise InvalidInput(f"{name} has shape {tuple(labels.shape)}; pass one whole number per row, shape (batch,)")
    # Reinterpreting uint64 keeps equal labels equal and different ones different, which is all that labels express.
    return labels.view(torch.int64) if labels.dtype == torch.uint64 else labels.long()


@validates
def as_numbered_batch(
    embeddings: Float[Tensor, "b d"], labels: Labels | None
) -> tuple[Float[Tensor, "b d"], Int[Tensor, " b"]]:
    """`as_batch`, with labels that are known as numbers. It waits for a GPU only for new labels that lie there."""
    rows, found = as_batch(embeddings, labels)
    if torch.compiler.is_compiling():
        return rows, found
    # Under torch.func `found` may have no storage, so labels of the CPU are read as they were given.
    numbers = read(labels if isinstance(labels, Tensor) and labels.device.type == "cpu" else found)
    return rows, remember(found.detach(), numbers)  # of this call alone; see `numbers_of`


def values_exist() -> bool:
    """Whether tensors hold values that can be looked at and kept: not in `FakeTensorMode`, nor in a CUDA graph."""
    return not capturing() and not are_fake()


def check_finite(embeddings: Float[Tensor, "b d"], name: str = "embeddings") -> None:
    """Raises InvalidInput, with the first bad row, if an embedding is NaN, infinite or beyond LARGEST."""
    if torch.compiler.is_compiling() or embeddings.numel() == 0 or not values_exist():
        return
    if embeddings.detach().abs().amax().item() <= LARGEST:  # False for NaN
        return
    bad = (~(embeddings.detach().abs() <= LARGEST)).any(dim=1).nonzero().flatten()
    what = f"values beyond {LARGEST:g}" if bool(embeddings.isfinite().all()) else "NaN or infinite values"
    raise InvalidInput(
        f"{name} has {what} in {len(bad)} of {len(embeddings)} rows, the first is row {int(bad[0])}; look at the "
        "learning rate, mixed precision or the input images"
    )


@validates
def as_memory_mask(from_memory: Bool[Tensor, " b"], embeddings: Float[Tensor, "b d"]) -> Bool[Tensor, " b"]:
    """Checks the mask of the rows that come from a memory, and moves it to the device of the embeddings.

    Raises:
        InvalidInput: if it is not a boolean tensor with one entry per row.
    """
    if (
        not isinstance(from_memory, Tensor)
        or from_memory.dtype != torch.bool
        or from_memory.shape != embeddings.shape[:1]
    ):
        is_tensor = isinstance(from_memory, Tensor)
        given = f"{from_memory.dtype} {tuple(from_memory.shape)}" if is_tensor else type(from_memory).__name__
        raise InvalidInput(
            f"from_memory is {given}; pass a boolean tensor of shape ({len(embeddings)},), one entry per row"
        )
    found = from_memory.to(embeddings.device).detach()
    return found if torch.compiler.is_compiling() else remember(found, read(from_memory))


@validates
def as_rows(
    rows: Int[Tensor, " a"], from_memory: Bool[Tensor, " b"] | None, b: int, device: torch.device
) -> Int[Tensor, " a"]:
    """Checks the row indices of the anchors, and converts them to int64.

    Raises:
        InvalidInput: if they are not a 1-D tensor of indices of rows that are not from a memory.
    """
    if not isinstance(rows, Tensor) or rows.dim() != 1 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise InvalidInput("rows must be a 1-D tensor of row numbers; for a mask pass mask.nonzero().flatten()")
    given, rows = rows, rows.to(device).long().detach()
    if torch.compiler.is_compiling() or rows.shape[0] == 0:
        return rows
    numbers = read(given)
    rows = remember(rows, numbers)
    if min(numbers) < 0 or max(numbers) >= b:
        raise InvalidInput(f"rows runs from {min(numbers)} to {max(numbers)}; the batch has rows 0 to {b - 1}")
    if from_memory is not None and any(map(read(from_memory).__getitem__, numbers)):
        raise InvalidInput("rows names rows that come from a memory, which are never anchors; leave them out of rows")
    return rows


@validates
def as_reference(
    reference: Float[Tensor, "g d"] | None, reference_labels: Labels | None, embeddings: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "g d"], Int[Tensor, " g"]]:
    """Checks a reference and its labels, and moves both to the device of the embeddings.

    Raises:
        InvalidInput, InvalidType: if one of them is missing, or they do not fit each other or the embeddings.
    """
    if reference is None or reference_labels is None:
        missing = "reference_labels" if reference_labels is None else "reference"
        raise InvalidInput(f"{missing} is missing; pass reference and reference_labels together, or neither")
    reference, reference_labels = as_batch(reference, reference_labels, name="reference")
    if not torch.compiler.is_compiling():
        read(reference_labels)
    if len(reference) == 0 or reference.shape[1:] != embeddings.shape[1:]:
        raise InvalidInput(
            f"reference is of shape {tuple(reference.shape)}; pass at least one row of {embeddings.shape[1]} "
            "dimensions, as the embeddings have"
        )
    return reference.to(embeddings.device), reference_labels.to(embeddings.device)


@validates
def as_count(n: SupportsIndex | float) -> int | float:
    """Checks the number of synthetic points per pair.

    Raises:
        InvalidInput, InvalidType: if n is not a whole number from 0 to MOST_POINTS, nor infinity.
    """
    if isinstance(n, float) and n == math.inf:
        return math.inf
    shape = getattr(n, "shape", ())
    if len(shape) == 0 and hasattr(n, "item"):  # a scalar of NumPy or torch
        return as_count(n.item())
    count = int(n) if isinstance(n, float) and n.is_integer() else whole_number(n)  # 2.0 is accepted
    if count is None or count < 0:
        kind = InvalidInput if isinstance(n, (int, float)) else InvalidType
        raise kind(f"n is {shown(n)}; pass a whole number of synthetic points, 0 or more, or infinity")
    if count > MOST_POINTS:
        raise InvalidInput(
            f"n is {count}; pass at most {MOST_POINTS} synthetic points, or infinity (math.inf), "
            "which covers the whole arc between two images exactly and is faster"
        )
    return count


def check_unit(embeddings: Float[Tensor, "b d"], because: str, remedy: str, *, check: bool = False) -> None:
    """Raises InvalidInput if the norm of a row differs from 1 by more than 1e-3. It looks on the CPU and with `check`.

    The message consists of `because`, the row with its norm, and `remedy`. Rows of zeros are accepted: normalisation
    does not change them, and no arc ends in them.
    """
    look = check or embeddings.device.type == "cpu"
    if not look or torch.compiler.is_compiling() or embeddings.numel() == 0 or are_fake():
        return
    norms = embeddings.detach().norm(dim=1)
    off = torch.where(norms == 0, 0, (norms - 1).abs())
    if float(off.max()) > 1e-3:
        row = int(off.argmax())
        raise InvalidInput(f"{because}, but row {row} has norm {float(norms[row]):.4g}; {remedy}")


def check_classes(labels: Int[Tensor, " b"], num_classes: int, name: str, values: Sequence[int] | None = None) -> None:
    """Raises InvalidInput unless all labels are from 0 to num_classes - 1; `name` is the option with that number.

    `values` are the labels as plain numbers, where they are known.
    """
    if torch.compiler.is_compiling() or len(labels) == 0:
        return
    lowest, highest = (int(labels.min()), int(labels.max())) if values is None else (min(values), max(values))
    if lowest < 0 or highest >= num_classes:
        raise InvalidInput(
            f"labels run from {lowest} to {highest}, but {name} is {num_classes}; number the classes from 0 to "
            f"{num_classes - 1}"
        )
