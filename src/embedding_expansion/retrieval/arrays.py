"""NumPy arrays and vectors, without torch: what a caller passes is read, normalised and compared by cosine."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput, InvalidType

#: Pairs of similarity and id, the most similar first.
Neighbours: TypeAlias = list[tuple[float, int]]

#: The most entries of the table of similarities.
TABLE_ENTRIES = 2**25

#: A cosine this close to 1 or -1 counts as 1 or -1. The product of a float32 row of unit norm with itself differs from
#: 1 by up to 7e-7 (measured up to 4,096 dimensions). An image that is embedded twice, in batches of different sizes, or
#: stored in half precision, differs by no more. The angle is 0.08 degrees.
ROUNDING = 1e-6


@validates
def as_array(values: Any, name: str) -> np.ndarray:
    """Converts an array, a tensor on any device, or nested lists to NumPy in native byte order, without a needless
    copy.

    Args:
        values: what the caller passed.
        name: of the argument, for the error messages.

    Raises:
        InvalidType: a tensor that NumPy cannot hold: sparse, nested, quantized, on the meta device, or of 8-bit floats.
        InvalidInput: nested lists of unequal lengths, or an array with masked entries.
    """
    if np.ma.is_masked(values):
        raise InvalidInput(f"{name} has {int(values.mask.sum())} masked entries; leave them out, or fill them in")
    values = _detached(values, name)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InvalidInput(f"{name} cannot be read ({error}); pass a flat list or an array") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _detached(values: Any, name: str) -> Any:
    """A tensor as a NumPy array, detached from autograd; any other value unchanged."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)  # another thread may be loading torch just now
    if torch is None or tensor is None or not isinstance(values, tensor):
        return values
    from embedding_expansion.core.inputs import check_floating, check_readable

    (check_floating if values.is_floating_point() else check_readable)(values, name)
    plain = values.detach().cpu().resolve_conj().resolve_neg()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


@validates
def unit_vectors(vectors: Any, dimensions: int, name: str = "vectors") -> Float[np.ndarray, "n d"]:
    """Checks a matrix of vectors and divides each vector by its Euclidean norm.

    Args:
        vectors: (n, dimensions), anything that `as_array` reads; n may be 0.
        dimensions: of the vectors in the index.
        name: of the argument, for the error messages.

    Returns:
        (n, dimensions), float32, C-contiguous.

    Raises:
        InvalidInput: another shape, NaN or infinite entries, or a row of zeros, which has no direction.
        InvalidType: entries that are not floating-point numbers.
    """
    rows = as_array(vectors, name)
    if rows.dtype not in (np.float16, np.float32, np.float64):
        raise InvalidType(f"{name} has the type {rows.dtype}; pass floating-point numbers of 16, 32 or 64 bits")
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise InvalidInput(
            f"{name} has the shape {rows.shape} but the index holds vectors of {dimensions} dimensions; pass a matrix "
            f"of shape (n, {dimensions}), embedded by the model of the index"
        )
    rows = rows.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    for wrong, what in ((~np.isfinite(largest), "NaN or infinite entries"), (largest == 0, "only zeros")):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InvalidInput(f"row {row} of {name} has {what}; leave it out or find out where it comes from")
    rows /= largest  # squares of very small or very large entries would leave the range of the type
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def closest(
    queries: Float[np.ndarray, "q d"], ids: Int[np.ndarray, " n"], rows: Float[np.ndarray, "n d"], k: int
) -> list[Neighbours]:
    """Finds for each query the k rows with the largest inner product, equal ones by the smaller id.

    A matrix product rounds differently at its edges, so the similarities of equal rows may differ in the last bit.
    Therefore the product only selects the rows near the k-th rank; these are compared in float64, each in the same
    order of summation.
    """
    if len(rows) == 0:
        return [[] for _ in queries]
    slack = 1e-6 * rows.shape[1] ** 0.5
    found: list[Neighbours] = []
    block = max(1, TABLE_ENTRIES // len(rows))
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        for query, similarities in zip(part, part @ rows.T, strict=True):
            near = _near(similarities, k, slack)
            found.append(ranked(query, ids[near], rows[near], k))
    return found


def ranked(
    query: Float[np.ndarray, " d"], ids: Int[np.ndarray, " n"], rows: Float[np.ndarray, "n d"], k: int
) -> Neighbours:
    """The k closest of a few rows to one query, compared in float64."""
    exact = (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = np.lexsort((ids, -exact))[:k]
    return [(float(exact[row]), int(ids[row])) for row in order]


def merged(parts: Iterable[Neighbours], k: int) -> Neighbours:
    """Merges several lists of neighbours of one query and keeps the k closest."""
    return sorted((pair for part in parts for pair in part), key=lambda pair: (-pair[0], pair[1]))[:k]


def _near(similarities: Float[np.ndarray, " n"], k: int, slack: float) -> Int[np.ndarray, " near"]:
    if k >= len(similarities):
        return np.arange(len(similarities))
    bar = np.partition(similarities, -k)[-k]
    return np.flatnonzero(similarities >= bar - slack)


def as_cosine(similarity: float | int) -> float:
    """Rounds a computed cosine within `ROUNDING` of 1 or -1 to 1 or -1.

    Example:
        >>> as_cosine(0.99999988), as_cosine(1.0000002), as_cosine(-0.9999999), as_cosine(0.9999)
        (1.0, 1.0, -1.0, 0.9999)
    """
    is_one = 1 - ROUNDING <= abs(similarity) <= 1 + ROUNDING
    return math.copysign(1.0, similarity) if is_one else float(similarity)


def as_cosines(similarities: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Applies `as_cosine` to every entry of an array."""
    size = np.abs(similarities)
    return np.where((size >= 1 - ROUNDING) & (size <= 1 + ROUNDING), np.sign(similarities), similarities)


def least_reaching(threshold: float | int) -> float:
    """The smallest computed cosine that `as_cosine` counts as reaching a threshold.

    Example:
        >>> least_reaching(0.5), least_reaching(1), least_reaching(-1)
        (0.5, 0.999999, -inf)
    """
    cosine = as_cosine(threshold)
    return {1.0: 1 - ROUNDING, -1.0: -math.inf}.get(cosine, cosine)
