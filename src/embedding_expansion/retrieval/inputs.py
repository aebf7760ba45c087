"""Checks embeddings, labels and masks that a caller passes, and converts them to one form."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_whole, as_wholes
from embedding_expansion.core.inputs import NUMBERED, check_floating, validates
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval.arrays import as_array


@validates
def embedding_rows(embeddings: Tensor | np.ndarray, name: str = "embeddings") -> Float[Tensor, "n d"]:
    """Checks a matrix of embeddings, one per row: floating-point, not empty, finite. Copies only where necessary."""
    if not isinstance(embeddings, (Tensor, np.ndarray)):
        given = type(embeddings).__name__
        raise InvalidType(f"{name} is a {given}; pass a tensor or a NumPy array with one embedding per row")
    if isinstance(embeddings, np.ndarray):
        array = np.ascontiguousarray(as_array(embeddings, name))
        if array.dtype not in (np.float16, np.float32, np.float64):
            raise InvalidType(f"{name} has the type {array.dtype}; pass floating-point numbers of 16, 32 or 64 bits")
        # torch shares writable memory only.
        embeddings = torch.from_numpy(array if array.flags.writeable else array.copy())
    check_floating(embeddings, name)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        shape = tuple(embeddings.shape)
        raise InvalidInput(f"{name} has the shape {shape}; pass a matrix with at least one row and one column")
    rows = embeddings.detach()
    broken = (~torch.linalg.vector_norm(rows, torch.inf, dim=1).isfinite()).nonzero().squeeze(1)
    if len(broken) > 0:
        raise InvalidInput(
            f"{name} has NaN or infinite entries in {len(broken)} of {len(rows)} rows, the first is row "
            f"{int(broken[0])}; leave these rows out or find out where they come from"
        )
    return rows


def arithmetic_dtype(*dtypes: torch.dtype) -> torch.dtype:
    """The type in which similarities are computed: float64 if any of the types is float64, otherwise float32."""
    return torch.float64 if torch.float64 in dtypes else torch.float32


def unit_rows(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Divides each row by its Euclidean norm, in float32 or float64; a row of zeros is unchanged."""
    rows = rows.to(arithmetic_dtype(rows.dtype)).contiguous()
    # Divided by the largest entry first: squares of very small or very large entries leave the range of the type.
    largest = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True)
    rows = rows / torch.where(largest > 0, largest, 1)
    norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows.div_(torch.where(norm > 0, norm, 1))


class UnitRows:
    """Rows divided by their Euclidean norm, as `unit_rows` returns them, read by slices or by indices.

    Half precision is converted and normalised only when a piece is read, so that no float32 copy of all rows is made.

    Args:
        rows: (n, d), finite, of any norm.
    """

    def __init__(self, rows: Float[Tensor, "n d"]) -> None:
        self.dtype = arithmetic_dtype(rows.dtype)
        self._ready = rows.dtype == self.dtype
        self._rows = unit_rows(rows) if self._ready else rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self._rows.device

    @property
    def shape(self) -> torch.Size:
        """The shape (n, d)."""
        return self._rows.shape

    def __getitem__(self, which: slice | Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        return self._rows[which] if self._ready else unit_rows(self._rows[which])

    def only(self, which: Int[Tensor, " m"]) -> UnitRows:
        """Selects rows by their indices; returns itself if these are all rows in their order."""
        if len(which) == len(self) and torch.equal(which, torch.arange(len(self), device=which.device)):
            return self
        some = copy.copy(self)
        some._rows = self._rows[which]
        return some


@validates
def class_indices(labels: Tensor | np.ndarray | Sequence[int], n: int) -> Int[np.ndarray, " n"]:
    """Numbers the classes 0, 1, ... in ascending order of their labels; labels of 64 bits are not rounded.

    Args:
        labels: n whole numbers, as a list, a NumPy array or a tensor.
        n: the number of rows that they belong to.
    """
    return numbered(label_values(labels, n))[1]


@validates
def label_values(
    labels: Tensor | np.ndarray | Sequence[int], n: int, name: str = "labels", of: str = "embeddings"
) -> Int[np.ndarray, " n"]:
    """Checks the labels of n rows: whole numbers, one per row. Their type is kept.

    Args:
        labels: n whole numbers, as a list, a NumPy array or a tensor.
        n: the number of rows that they belong to.
        name: of the argument, for the error messages.
        of: the name of the argument that holds the rows.
    """
    return whole_numbers(_one_per_row(labels, name, n, "label", of), name)


def whole_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Checks that an array holds whole numbers of up to 64 bits, and returns it."""
    held = values.ravel() if values.dtype == object else ()
    for what, kinds, python in (("text", "UST", (str, bytes)), ("booleans", "b", (bool, np.bool_))):
        if values.dtype.kind in kinds or any(isinstance(value, python) for value in held):
            raise InvalidType(f"{name} holds {what}; {NUMBERED.format(name)}")
    if values.dtype.kind not in "iu":
        raise InvalidType(f"{name} has the type {values.dtype}; pass whole numbers of up to 64 bits")
    return values


@validates
def numbered(*labels: Int[np.ndarray, " n"]) -> tuple[np.ndarray, ...]:
    """The labels that occur, in ascending order, and for each array the indices of its labels among them."""
    kinds = {values.dtype.kind for values in labels}
    # NumPy joins signed and unsigned 64-bit integers to floats, which round large labels; Python integers do not.
    joined = np.concatenate([values.astype(object) if len(kinds) > 1 else values for values in labels])
    known, indices = np.unique(joined, return_inverse=True)
    bounds = np.cumsum([len(values) for values in labels])[:-1]
    return known, *np.split(indices.astype(np.int64, copy=False), bounds)


@validates
def chosen_rows(mask: Tensor | np.ndarray | Sequence[bool] | None, name: str, n: int) -> Int[np.ndarray, " rows"]:
    """The rows that a boolean mask of length n selects, in ascending order; all rows if it is None."""
    if mask is None:
        return np.arange(n)
    values = _one_per_row(mask, name, n, "true or false")
    if values.dtype != np.bool_:
        raise InvalidType(f"{name} has the type {values.dtype}; pass one true or false per row")
    if not values.any():
        raise InvalidInput(f"{name} selects none of the {n} rows; mark at least one row")
    return np.flatnonzero(values)


def generator_of(seed: object) -> np.random.Generator:
    """NumPy's generator of a seed, a whole number of at least 0."""
    return np.random.default_rng(as_whole(seed, "seed", least=0))


def cutoffs(values: object, name: str) -> tuple[int, ...]:
    """Checks the K of measures such as Recall@K; a K given twice counts once."""
    return tuple(dict.fromkeys(as_wholes(values, name, least=1)))


def _one_per_row(values: object, name: str, n: int, what: str, of: str = "embeddings") -> np.ndarray:
    array = as_array(values, name)
    if array.ndim != 1:
        raise InvalidInput(f"{name} has the shape {array.shape}; pass one {what} per row, in one dimension")
    if len(array) != n:
        raise InvalidInput(f"{name} has {len(array)} entries but {of} has {n} rows; pass one {what} per row")
    return array
