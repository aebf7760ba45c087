"""Tables of the similarities of two blocks of rows, with a bound on the error of their entries."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from embedding_expansion.retrieval import native
from embedding_expansion.retrieval.quantization import QuantizedRows, quantization_pays


@dataclass(frozen=True)
class TableRows:
    """The rows of a block, of norm 1 or 0.

    Attributes:
        rows: (m, d), contiguous.
    """

    rows: Float[Tensor, "m d"]

    @functools.cached_property
    def quantized(self) -> QuantizedRows:
        """The rows quantized to int8, computed on first use."""
        return QuantizedRows.of(self.rows)


class Tables:
    """Makes one table after another in the same memory.

    Args:
        height: the largest number of rows on the left side.
        width: the largest number of rows on the right side.
        like: rows with the dimensions and the type of those to come.

    Attributes:
        by_bytes: whether the next table is made of int8 products. These leave more comparisons undecided than products
            of floats.
    """

    def __init__(self, height: int, width: int, like: Float[Tensor, "n d"]) -> None:
        d = like.shape[1]
        # Padded by half a step more, because rows a power of two apart would share few lines of the cache.
        padded = int((-(-width // native.STEP) + 0.5) * native.STEP)
        self.by_bytes = quantization_pays(like)
        self._table = torch.empty(height, padded, dtype=like.dtype)
        self._products = torch.empty(height * width if self.by_bytes else 0, dtype=torch.int32)
        self._filled = padded  # columns that may hold entries of an earlier table
        # A sum of d products is off by at most d roundings, and by a few times sqrt(d) of them in practice.
        self._rounding = min(d + 4, 8 * math.sqrt(d) + 4) * torch.finfo(like.dtype).eps / 2

    def between(self, left: TableRows, right: TableRows) -> tuple[Float[Tensor, "m w"], float]:
        """The similarities of two blocks, valid until the next call.

        Returns:
            The table, with minus infinity in the columns beyond the right rows, and the largest error of an entry.
        """
        m, w = len(left.rows), len(right.rows)
        table = self._table[:m]
        if w < self._filled:
            self._table[:, w:] = -torch.inf
        self._filled = w
        if self.by_bytes:
            return table, self._fill_from_bytes(left.quantized, right.quantized, table[:, :w])
        with torch.autocast("cpu", enabled=False):
            torch.mm(left.rows, right.rows.T, out=table[:, :w])
        return table, self._rounding

    def _fill_from_bytes(self, left: QuantizedRows, right: QuantizedRows, table: Float[Tensor, "m w"]) -> float:
        """Fills the table with int8 products and bounds their error.

        For x = u + e and y = v + f, with u and v the quantized rows, |x.y - u.v| <= |e| |v| + |x| |f|.
        """
        m, w = table.shape
        products = torch._int_mm(left.codes, right.codes.T, out=self._products[: m * w].view(m, w))
        table.copy_(products).mul_(right.scale).mul_(left.scale.unsqueeze(1))
        error, other = float(left.error.max()), float(right.error.max())
        bound = error * (float(right.norm.max()) + other) + float(left.norm.max()) * other
        return 1.001 * bound + self._rounding  # the norms are rounded as well
