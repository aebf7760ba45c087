"""Slow, obvious versions of every measure, in plain Python and written apart from the package."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import log2, nan, sqrt


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


def measures_of_queries(
    queries: Sequence[Sequence[float]],
    labels: Sequence[int],
    gallery: Sequence[Sequence[float]],
    gallery_labels: Sequence[int],
    own: Sequence[int],
    precision_at: Sequence[int],
) -> dict[str, list[float]]:
    """Every measure of relevant rows, per query; `own` is the gallery row that a query must not find, or -1."""
    names = [f"precision_at_{k}" for k in precision_at] + ["r_precision", "map_at_r", "mrr", "map", "ndcg"]
    values: dict[str, list[float]] = {name: [] for name in names}
    for query, ranked in enumerate(neighbours(queries, gallery, len(gallery), own)):
        relevant = [j >= 0 and gallery_labels[j] == labels[query] for j in ranked]
        r = sum(relevant)
        if r == 0:
            for name in names:
                values[name].append(nan)
            continue
        places = [place for place, hit in enumerate(relevant, start=1) if hit]
        precisions = {place: number / place for number, place in enumerate(places, start=1)}
        for k in precision_at:
            values[f"precision_at_{k}"].append(sum(relevant[:k]) / k)
        values["r_precision"].append(sum(relevant[:r]) / r)
        values["map_at_r"].append(sum(value for place, value in precisions.items() if place <= r) / r)
        values["mrr"].append(1 / places[0])
        values["map"].append(sum(precisions.values()) / r)
        gain = sum(1 / log2(place + 1) for place in places)
        values["ndcg"].append(gain / sum(1 / log2(place + 1) for place in range(1, r + 1)))
    return values


def pairwise_f1(classes: Sequence[int], clusters: Sequence[int]) -> float:
    pairs = list(combinations(range(len(classes)), 2))
    together = {(i, j) for i, j in pairs if clusters[i] == clusters[j]}
    alike = {(i, j) for i, j in pairs if classes[i] == classes[j]}
    both = len(together & alike)
    if not both:
        return 0.0 if together or alike else 1.0
    precision, recall = both / len(together), both / len(alike)
    return 2 * precision * recall / (precision + recall)


def joined(rows: Sequence[Sequence[float]], linkage: str, similarity: float) -> list[int]:
    """The clusters after joining the most similar two as long as they are at least so similar."""
    unit = [[x / sqrt(sum(y * y for y in row)) for x in row] for row in rows]
    groups = [[i] for i in range(len(rows))]

    def likeness(one: list[int], other: list[int]) -> float:
        cosines = [sum(a * b for a, b in zip(unit[i], unit[j], strict=True)) for i in one for j in other]
        return {"average": sum(cosines) / len(cosines), "complete": min(cosines), "single": max(cosines)}[linkage]

    while len(groups) > 1:
        one, other = max(combinations(groups, 2), key=lambda pair: likeness(*pair))
        if likeness(one, other) < similarity:
            break
        groups = [group for group in groups if group not in (one, other)] + [one + other]
    return [next(number for number, group in enumerate(groups) if i in group) for i in range(len(rows))]
