"""Batches to test on: classes of unequal size, labels with gaps in any order, rows on and off the unit sphere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

NAMES = (41, -3, 1000, 7, 2**40, 0)  # labels of the classes: neither contiguous, nor ascending, nor all positive


def batch(
    sizes: Sequence[int], d: int = 4, seed: int = 0, *, unit: bool = True, paired: bool = False
) -> tuple[Tensor, Tensor]:
    """Random rows in float64 with `sizes[k]` of class k, shuffled; `paired` keeps rows (0, 1), (2, 3), ... together."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([NAMES[k] for k, size in enumerate(sizes) for _ in range(size)], dtype=torch.int64)
    b = len(labels)
    if paired:
        order = torch.randperm(b // 2, generator=generator)
        order = torch.stack([2 * order, 2 * order + 1], dim=1).reshape(-1)
    else:
        order = torch.randperm(b, generator=generator)
    centres = torch.randn(len(sizes), d, generator=generator, dtype=torch.float64)
    rows = torch.cat([centres[k].expand(size, d) for k, size in enumerate(sizes)]) if sizes else torch.zeros(0, d)
    rows = 0.5 * rows + torch.randn(b, d, generator=generator, dtype=torch.float64)
    if unit:
        rows = rows / rows.norm(dim=1, keepdim=True)
    return rows[order].clone(), labels[order]


UNEQUAL = (3, 1, 2, 4)  # among them a class with one image; ascending labels do not have ascending sizes
PAIRED = (4, 2, 2)  # what anchor scope takes


def batch_for(scope: str | None, seed: int = 0, *, d: int = 4, unit: bool = True) -> tuple[Tensor, Tensor]:
    """The batch a scope can take (None: no expansion)."""
    return batch(PAIRED, d, seed, unit=unit, paired=True) if scope == "anchor" else batch(UNEQUAL, d, seed, unit=unit)


seeds = st.integers(0, 10_000)
