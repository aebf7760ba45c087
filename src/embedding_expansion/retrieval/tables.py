"""Tables of the similarities of two blocks of rows, and how far their entries may be off."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from embedding_expansion.retrieval import bytes as rounded
from embedding_expansion.retrieval import native


@dataclass(frozen=True)
class Side:
    """The rows of a block, of norm 1 or 0.

    Attributes:
        rows: (m, d), contiguous.
    """

    rows: Float[Tensor, "m d"]

    @functools.cached_property
    def bytes(self) -> rounded.Bytes:
        """The same, rounded."""
        return rounded.Bytes.of(self.rows)


class Tables:
    """Makes one table after the other in the same memory.

    Args:
        height: the most rows of the left side.
        width: the most of the right side.
        like: rows as they will come.

    Attributes:
        by_bytes: whether the next table is made of products of bytes. They leave more open than products of floats.
    """

    def __init__(self, height: int, width: int, like: Float[Tensor, "n d"]) -> None:
        d = like.shape[1]
        # Half a step more, lest rows lie at powers of two from each other and share few places in the cache.
        padded = int((-(-width // native.STEP) + 0.5) * native.STEP)
        self.by_bytes = rounded.are_quicker(like)
        self._table = torch.empty(height, padded, dtype=like.dtype)
        self._products = torch.empty(height * width if self.by_bytes else 0, dtype=torch.int32)
        self._filled = padded  # columns that the last products may have left behind
        # A sum of d products is off by d roundings at most, and by a few times their root where they do not conspire.
        self._rounding = min(d + 4, 8 * math.sqrt(d) + 4) * torch.finfo(like.dtype).eps / 2

    def between(self, left: Side, right: Side) -> tuple[Float[Tensor, "m w"], float]:
        """The table, minus infinity in the columns beyond the rows of the right side, and how far an entry is off."""
        m, w = len(left.rows), len(right.rows)
        table = self._table[:m]
        if w < self._filled:
            self._table[:, w:] = -torch.inf
        self._filled = w
        if self.by_bytes:
            return table, self._of_bytes(left.bytes, right.bytes, table[:, :w])
        with torch.autocast("cpu", enabled=False):
            torch.mm(left.rows, right.rows.T, out=table[:, :w])
        return table, self._rounding

    def _of_bytes(self, left: rounded.Bytes, right: rounded.Bytes, table: Float[Tensor, "m w"]) -> float:
        """With x = u + e and y = v + f, of which u and v are the bytes, |x.y - u.v| is at most |e| |v| + |x| |f|."""
        m, w = table.shape
        products = torch._int_mm(left.whole, right.whole.T, out=self._products[: m * w].view(m, w))
        table.copy_(products).mul_(right.unit).mul_(left.unit.unsqueeze(1))
        error, other = float(left.error.max()), float(right.error.max())
        off = error * (float(right.norm.max()) + other) + float(left.norm.max()) * other
        return 1.001 * off + self._rounding  # the norms are rounded as well
