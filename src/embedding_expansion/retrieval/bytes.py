"""Rows rounded to bytes, whose products some processors take several times faster, and how far those may be off."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from embedding_expansion.retrieval import native

# With fewer dimensions rounding takes as long as it saves; with more a product could leave 32 bits.
LEAST_DIMENSIONS, MOST_DIMENSIONS = 32, 2**16


@dataclass(frozen=True)
class Bytes:
    """Rows as whole numbers of -127 to 127 times a unit of each row, and how far that is from them.

    Attributes:
        whole: (n, d).
        unit: (n,).
        norm: (n,), of the rows themselves.
        error: (n,), the norm of what rounding has changed.
    """

    whole: Int8[Tensor, "n d"]
    unit: Float[Tensor, " n"]
    norm: Float[Tensor, " n"]
    error: Float[Tensor, " n"]

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"]) -> Bytes:
        """Rounds rows."""
        unit = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True).div_(127).clamp_(min=1e-30)
        rounded = (rows / unit).round_()
        whole = rounded.to(torch.int8)
        error = torch.linalg.vector_norm(rounded.mul_(unit).sub_(rows), dim=1)
        return cls(whole, unit.squeeze(1), torch.linalg.vector_norm(rows, dim=1), error)


def are_quicker(rows: Float[Tensor, "n d"]) -> bool:
    """Whether products of bytes are quicker than those of such rows, whose norms must be far from the type's limits."""
    fits = rows.dtype == torch.float32 and LEAST_DIMENSIONS <= rows.shape[1] <= MOST_DIMENSIONS
    return fits and native.available(rows.device) and native.multiplies_bytes() and _are_exact()


@functools.cache
def _are_exact() -> bool:
    """False where oneDNN is held to older instructions (ONEDNN_MAX_CPU_ISA), whose sums of 16 bits overflow."""
    largest = torch.full((64, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(largest, largest.T) == 64 * 127**2).all())
