"""Rows quantized to int8, whose products some processors compute several times faster, with bounds on the error."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from embedding_expansion.retrieval import native

# Below the first number quantizing takes as long as it saves; above the second a product could exceed 32 bits.
LEAST_DIMENSIONS, MOST_DIMENSIONS = 32, 2**16


@dataclass(frozen=True)
class QuantizedRows:
    """Rows as int8 codes, one scale per row, and the error that this makes.

    Attributes:
        codes: (n, d), whole numbers from -127 to 127.
        scale: (n,). Row i is about `scale[i] * codes[i]`.
        norm: (n,), the Euclidean norm of each original row.
        error: (n,), the Euclidean norm of the difference between each row and its quantized form.
    """

    codes: Int8[Tensor, "n d"]
    scale: Float[Tensor, " n"]
    norm: Float[Tensor, " n"]
    error: Float[Tensor, " n"]

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"]) -> QuantizedRows:
        """Quantizes rows; the largest entry of each row becomes 127 or -127."""
        scale = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True).div_(127).clamp_(min=1e-30)
        rounded = (rows / scale).round_()
        codes = rounded.to(torch.int8)
        error = torch.linalg.vector_norm(rounded.mul_(scale).sub_(rows), dim=1)
        return cls(codes, scale.squeeze(1), torch.linalg.vector_norm(rows, dim=1), error)


def quantization_pays(rows: Float[Tensor, "n d"]) -> bool:
    """Whether int8 products are faster than float products for rows like these.

    The norms of the rows must be far from the limits of their type; the caller checks that.
    """
    fits = rows.dtype == torch.float32 and LEAST_DIMENSIONS <= rows.shape[1] <= MOST_DIMENSIONS
    return fits and native.available(rows.device) and native.multiplies_bytes() and _products_are_exact()


@functools.cache
def _products_are_exact() -> bool:
    """Whether int8 products are exact; sums of 16 bits overflow where ONEDNN_MAX_CPU_ISA selects old instructions."""
    largest = torch.full((64, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.T) == 64 * 127**2).all())
