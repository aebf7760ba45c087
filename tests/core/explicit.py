"""The points of embedding expansion, built one by one as vectors: what the oracles look for the hardest pairs among."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

NO_DIRECTION = 1e-10  # squared norm under which the middle of two opposite points is no point (float64)


@dataclass(frozen=True)
class Point:
    """An original row (both ends the same, weights 1 and 0) or a synthetic point on the segment between two rows."""

    vector: Tensor
    ends: tuple[int, int]
    weights: tuple[float, float]
    synthetic: bool


def original(E: Tensor, i: int) -> Point:
    return Point(E[i], (i, i), (1.0, 0.0), synthetic=False)


def between(E: Tensor, i: int, j: int, n: int, normalize: bool) -> list[Point]:
    """The n points that divide the segment from row i to row j into n + 1 equal parts, on the sphere if asked for."""
    points = []
    for k in range(1, n + 1):
        first, second = k / (n + 1), (n + 1 - k) / (n + 1)
        vector = first * E[i] + second * E[j]
        if normalize:
            if float((vector.detach() ** 2).sum()) < NO_DIRECTION:
                continue
            vector = vector / (vector**2).sum().sqrt()
        points.append(Point(vector, (i, j), (first, second), synthetic=True))
    return points


def rows_of_class(labels: Sequence[int], label: int) -> list[int]:
    return [i for i, other in enumerate(labels) if other == label]


def segments_of_class(labels: Sequence[int], label: int) -> list[tuple[int, int]]:
    members = rows_of_class(labels, label)
    return [(i, j) for i in members for j in members if i < j]


def points_of_class(
    E: Tensor, labels: Sequence[int], label: int, n: int, normalize: bool, barred: Sequence[bool] | None = None
) -> list[Point]:
    """All points of one class; with `barred` rows, only those points of which at least one end is not barred."""
    barred = barred or [False] * len(labels)
    points = [original(E, i) for i in rows_of_class(labels, label) if not barred[i]]
    for i, j in segments_of_class(labels, label):
        if not (barred[i] and barred[j]):
            points += between(E, i, j, n, normalize)
    return points


def mate(i: int) -> int:
    """The row that row i is paired with in anchor scope: (0, 1), (2, 3), ..."""
    return i + 1 if i % 2 == 0 else i - 1


def points_of_row(E: Tensor, i: int, n: int, normalize: bool) -> list[Point]:
    return [original(E, i), *between(E, i, mate(i), n, normalize)]


def points_of_paired_class(E: Tensor, labels: Sequence[int], label: int, n: int, normalize: bool) -> list[Point]:
    points = []
    for i in rows_of_class(labels, label):
        points += points_of_row(E, i, n, normalize)
    return points
