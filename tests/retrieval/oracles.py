"""Slow, obvious versions of every measure, in plain Python and written apart from the package."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt


def neighbours(
    queries: Sequence[Sequence[float]], gallery: Sequence[Sequence[float]], k: int, exclude: Sequence[int] | None = None
) -> list[list[int]]:
    """The k gallery rows with the largest inner product, of equal ones the first; -1 where there are fewer."""
    lists = []
    for number, query in enumerate(queries):
        candidates = [j for j in range(len(gallery)) if exclude is None or exclude[number] != j]
        product = {j: sum(a * b for a, b in zip(query, gallery[j], strict=True)) for j in candidates}
        ranked = sorted(candidates, key=lambda j: (-product[j], j))[:k]
        lists.append(ranked + [-1] * (k - len(ranked)))
    return lists


def retrieval(
    rows: Sequence[Sequence[float]],
    labels: Sequence[int],
    ks: Sequence[int],
    is_query: Sequence[bool] | None = None,
    is_gallery: Sequence[bool] | None = None,
) -> dict[str, float]:
    unit = [[x / sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    everything = range(len(rows))
    queries = [i for i in everything if is_query is None or is_query[i]]
    gallery = [i for i in everything if is_gallery is None or is_gallery[i]]
    hit: dict[int, list[float]] = {k: [] for k in ks}
    first, r_precisions, average_precisions = [], [], []
    for i in queries:
        others = [j for j in gallery if j != i]
        cosine = {j: sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) for j in others}
        relevant = [labels[j] == labels[i] for j in sorted(others, key=lambda j: (-cosine[j], j))]
        for k in ks:
            hit[k].append(float(any(relevant[:k])))
        r = sum(relevant)
        if r == 0:
            continue
        first.append(float(relevant[0]))
        r_precisions.append(sum(relevant[:r]) / r)
        average_precisions.append(sum(sum(relevant[:p]) / p for p in range(1, r + 1) if relevant[p - 1]) / r)
    means = {f"recall_at_{k}": sum(hit[k]) / len(hit[k]) for k in ks}
    means["precision_at_1"] = sum(first) / len(first)
    means["r_precision"] = sum(r_precisions) / len(r_precisions)
    means["map_at_r"] = sum(average_precisions) / len(average_precisions)
    return means


def pairwise_f1(classes: Sequence[int], clusters: Sequence[int]) -> float:
    pairs = list(combinations(range(len(classes)), 2))
    together = {(i, j) for i, j in pairs if clusters[i] == clusters[j]}
    alike = {(i, j) for i, j in pairs if classes[i] == classes[j]}
    precision, recall = len(together & alike) / len(together), len(together & alike) / len(alike)
    return 2 * precision * recall / (precision + recall)
