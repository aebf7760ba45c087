"""The exact nearest center of each row, from a matrix product, of int8 where the processor multiplies int8."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.retrieval import native
from embedding_expansion.retrieval.quantization import QuantizedRows, quantization_pays

# The most bytes of the table of scores (rows by centers), of floats and of int8 products; the latter stays in the
# cache.
TABLE_BYTES = 2**27
CACHED_BYTES = 2**24
# Rows whose distance from their center is computed at a time.
PIECE = 8192
# With fewer centers quantizing takes as long as it saves.
LEAST_CENTERS = 256
# If int8 products leave more than this share of the centers as candidates, products of floats are faster.
MOST_LOOKED_AT = 1 / 32
# Squared norms within which no sum leaves the range of float32.
SMALLEST, LARGEST = 1e-20, 1e20


def nearest_center(
    rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Finds the nearest center of each row; of equally near centers the first.

    Returns:
        The index of the center, int64, and the squared Euclidean distance to it, both of shape (n,).
    """
    assignment = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    distances = rows.new_empty(len(rows))
    done = _by_bytes(rows, centers, assignment, distances) if _bytes_pay(rows, centers) else 0
    if done < len(rows):
        _by_products(rows[done:], centers, assignment[done:], distances[done:])
    return assignment, distances


def _by_products(
    rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], assignment: Int[Tensor, " n"], distances: Tensor
) -> None:
    half_norms = centers.square().sum(1) / 2
    size = min(len(rows), max(1, TABLE_BYTES // (len(centers) * rows.dtype.itemsize)))
    table = rows.new_empty(size, len(centers))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        scores = torch.mm(part, centers.T, out=table[: len(part)]).sub_(half_norms)
        assignment[start : start + size] = scores.argmax(1)
    # Computed from the difference, which stays accurate very near the center; the expanded square does not.
    for start in range(0, len(rows), PIECE):
        piece = slice(start, start + PIECE)
        distances[piece] = (rows[piece] - centers[assignment[piece]]).square_().sum(1)


def _bytes_pay(rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"]) -> bool:
    if len(centers) < LEAST_CENTERS or not quantization_pays(rows):
        return False
    longest = float(centers.square().sum(1).max()), float(torch.linalg.vector_norm(rows, dim=1).max()) ** 2
    return all(SMALLEST < square < LARGEST for square in longest)


def _by_bytes(
    rows: Float[Tensor, "n d"], centers: Float[Tensor, "k d"], assignment: Int[Tensor, " n"], distances: Tensor
) -> int:
    """Assigns rows by int8 products until these leave too many candidates, and returns how many rows it assigned.

    For x = u + e and c = v + f, with u and v the quantized rows, |x.c - u.v| <= |e| |v| + |x| |f|. That rules out all
    centers but a few candidates, whose distance is computed from the rows themselves.
    """
    rows, centers = rows.contiguous(), centers.contiguous()
    k, d = centers.shape
    theirs, half_norms = QuantizedRows.of(centers), centers.square().sum(1) / 2
    longest, error = float(theirs.norm.max()), float(theirs.error.max())
    rounding = d * torch.finfo(torch.float32).eps * longest
    size = max(native.STEP, min(len(rows), CACHED_BYTES // (4 * k)))
    table = torch.empty(size, k, dtype=torch.int32)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ours = QuantizedRows.of(part)
        allowance = ours.error * (longest + error) + ours.norm * (error + rounding) + rounding * longest
        products = torch._int_mm(ours.codes, theirs.codes.T, out=table[: len(part)])
        choice = native.NearestChoice(
            table=products.data_ptr(),
            unit=ours.scale.data_ptr(),
            center_unit=theirs.scale.data_ptr(),
            half=half_norms.data_ptr(),
            rows=part.data_ptr(),
            centers=centers.data_ptr(),
            allowance=allowance.data_ptr(),
            count=len(part),
            k=k,
            d=d,
            nearest=assignment[start:].data_ptr(),
            distance=distances[start:].data_ptr(),
        )
        native.call("choose", choice, rows.dtype)
        if choice.looked_at > MOST_LOOKED_AT * len(part) * k:
            return min(start + size, len(rows))
    return len(rows)
