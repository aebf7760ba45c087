"""Post-processing as slow, obvious loops over the papers' equations, written apart from the package."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, sqrt

import numpy as np

from .oracles import neighbours

Rows = Sequence[Sequence[float]]


def unit(rows: Rows) -> list[list[float]]:
    norms = [sqrt(sum(x * x for x in row)) for row in rows]
    return [[x / (norm or 1.0) for x in row] for row, norm in zip(rows, norms, strict=True)]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def expanded(queries: Rows, gallery: Rows, k: int, alpha: float, exclude: Sequence[int]) -> list[list[float]]:
    queries, gallery = unit(queries), unit(gallery)
    sums = []
    for query, found in zip(queries, neighbours(queries, gallery, k, exclude), strict=True):
        total = list(query)
        for j in found:
            if j >= 0:
                similarity = max(0.0, cosine(query, gallery[j]))
                weight = similarity**alpha if alpha > 0 else 1.0
                total = [t + weight * x for t, x in zip(total, gallery[j], strict=True)]
        sums.append(total)
    return unit(sums)


def k_reciprocal(points: Rows, k1: int, k2: int, distance_weight: float) -> list[list[float]]:
    """The table of d* among all points."""
    points = unit(points)
    everything = range(len(points))
    squared = [[2 - 2 * cosine(a, b) for b in points] for a in points]
    d = [[squared[p][x] / max(squared[p]) for x in everything] for p in everything]
    ranked = [[p, *sorted((x for x in everything if x != p), key=lambda x: (d[p][x], x))] for p in everything]

    def reciprocal(p: int, k: int) -> set[int]:
        return {x for x in ranked[p][: k + 1] if p in ranked[x][: k + 1]}

    half = round(k1 / 2)
    v = []
    for p in everything:
        near = reciprocal(p, k1)
        wide = set(near)
        for x in near:
            candidate = reciprocal(x, half)
            if len(candidate & near) >= 2 / 3 * len(candidate) - 1e-9:
                wide |= candidate
        weights = {x: exp(-d[p][x]) for x in wide}
        v.append([weights.get(x, 0.0) / sum(weights.values()) for x in everything])
    averaged = []
    for p in everything:
        group = ranked[p][:k2]
        averaged.append([sum(v[x][y] for x in group) / len(group) for y in everything])
    table = []
    for p in everything:
        row = []
        for x in everything:
            minima = sum(min(a, b) for a, b in zip(averaged[p], averaged[x], strict=True))
            maxima = sum(max(a, b) for a, b in zip(averaged[p], averaged[x], strict=True))
            row.append((1 - distance_weight) * (1 - minima / maxima) + distance_weight * d[p][x])
        table.append(row)
    return table


def diffused(
    queries: Rows, gallery: Rows, k: int, query_k: int, gamma: float, alpha: float, exclude: Sequence[int]
) -> np.ndarray:
    """The f of every query by a dense solver."""
    queries, gallery = unit(queries), unit(gallery)
    g = len(gallery)
    lists = neighbours(gallery, gallery, k, range(g))
    a = np.zeros((g, g))
    for x in range(g):
        for z in range(g):
            if x in lists[z] and z in lists[x]:
                a[x, z] = max(0.0, cosine(gallery[x], gallery[z])) ** gamma
    s = np.zeros((g, g))
    for x in range(g):
        for z in range(g):
            if a[x, z] > 0:
                s[x, z] = a[x, z] / sqrt(sum(a[x]) * sum(a[z]))
    f = []
    for query, found in zip(queries, neighbours(queries, gallery, query_k, exclude), strict=True):
        y = np.zeros(g)
        for x in found:
            if x >= 0:
                y[x] = max(0.0, cosine(query, gallery[x])) ** gamma
        f.append((1 - alpha) * np.linalg.solve(np.eye(g) - alpha * s, y))
    return np.array(f)


def list_measures(
    lists: Sequence[Sequence[int]],
    query_labels: Sequence[int],
    gallery_labels: Sequence[int],
    ks: Sequence[int],
    exclude: Sequence[int],
) -> dict[str, float]:
    hits: dict[int, list[float]] = {k: [] for k in ks}
    first, r_precision, average = [], [], []
    for found, label, own in zip(lists, query_labels, exclude, strict=True):
        relevant = [j >= 0 and gallery_labels[j] == label for j in found]
        for k in ks:
            hits[k].append(float(any(relevant[:k])))
        r = sum(1 for j, other in enumerate(gallery_labels) if other == label and j != own)
        if r > 0:
            first.append(float(relevant[0]))
            r_precision.append(sum(relevant[:r]) / r)
            average.append(sum(sum(relevant[:p]) / p for p in range(1, r + 1) if relevant[p - 1]) / r)
    means = {f"recall_at_{k}": sum(hits[k]) / len(hits[k]) for k in ks}
    names = ("precision_at_1", "r_precision", "map_at_r")
    return means | {n: sum(v) / len(v) for n, v in zip(names, (first, r_precision, average), strict=True)}
