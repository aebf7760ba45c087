"""The hardest pairs of whole segments, found by a search that zooms in on points as vectors: slow and obvious."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import explicit


def on_segment(E: Tensor, ends: tuple[int, int], u: Tensor, normalize: bool) -> Tensor:
    """Points of a segment as vectors; ends and singles stay as they are."""
    i, j = ends
    points = u[:, None] * E[i] + (1 - u[:, None]) * E[j]
    inside = ((u > 0) & (u < 1))[:, None]
    return torch.where(inside & normalize & (i != j), points / points.norm(dim=1, keepdim=True), points)


def zoomed(E: Tensor, a: tuple[int, int], b: tuple[int, int], normalize: bool, metric: str) -> float:
    """The hardest pair of two segments: a grid, then ever finer ones about the best of it."""
    (low, high), (left, right) = (0.0, 1.0), (0.0, 1.0)
    best = -math.inf
    for _ in range(11):
        u, v = torch.linspace(low, high, 25).double(), torch.linspace(left, right, 25).double()
        x, y = on_segment(E, a, u, normalize), on_segment(E, b, v, normalize)
        table = x @ y.T if metric == "inner" else 1 - ((x[:, None] - y) ** 2).sum(-1) / 2
        at = int(table.argmax())
        best = max(best, float(table.max()))
        i, j = at // 25, at % 25
        low, high = float(u[max(0, i - 2)]), float(u[min(24, i + 2)])
        left, right = float(v[max(0, j - 2)]), float(v[min(24, j + 2)])
    return best


def whole_segments(rows: Sequence[int]) -> list[tuple[int, int]]:
    return [(i, j) for i, j in itertools.combinations(rows, 2)] or [(rows[0], rows[0])]


def oracle(E: Tensor, labels: list[int], scope: str, normalize: bool, metric: str) -> Tensor:
    """The expanded negatives, row by class; -1 within a class."""
    classes = sorted(set(labels))
    rows = [explicit.rows_of_class(labels, label) for label in classes]
    nearest = functools.cache(lambda a, b: zoomed(E, a, b, normalize, metric))
    found = torch.full((len(labels), len(classes)), -1.0, dtype=E.dtype)
    for i, label in enumerate(labels):
        for c, other in enumerate(classes):
            if label == other:
                continue
            if scope == "anchor":
                pairs = [((i, explicit.mate(i)), (j, explicit.mate(j))) for j in rows[c] if j % 2 == 0]
            elif scope == "negative":
                pairs = [((i, i), segment) for segment in whole_segments(rows[c])]
            else:
                pairs = list(itertools.product(whole_segments(rows[classes.index(label)]), whole_segments(rows[c])))
            found[i, c] = max(nearest(*sorted(pair)) for pair in pairs)
    return found
