"""Slow, obvious loops of every equation, written from the paper's formulas and apart from the source.

Everything is built out of explicit points (explicit.py, torch vectors in float64), one pair at a time, so that autograd
gives the gradient of the explicit construction. Nothing here knows the Gram matrix, masks, slots or padding.

    points of a class or a row  ->  Table (similarities, one list per anchor)  ->  terms (one list per anchor)  ->  mean
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..explicit import Point, original, points_of_class, points_of_paired_class, points_of_row, rows_of_class

# --- similarities -----------------------------------------------------------------------------------------------------


def similarity(p: Tensor, q: Tensor, metric: str) -> Tensor:
    if metric == "inner":
        return (p * q).sum()
    if metric == "snr":
        return 1 - (p - q).var(correction=0) / p.var(correction=0) / 2
    return 1 - ((p - q) ** 2).sum() / 2


def hardest_pair(ours: list[Point], theirs: list[Point], metric: str) -> tuple[Point, Point]:
    """The most similar pair of two sets of points, by looking at every pair; the first of equals."""
    P = torch.stack([p.vector.detach() for p in ours])
    Q = torch.stack([q.vector.detach() for q in theirs])
    table = (P[:, None] * Q[None]).sum(-1) if metric == "inner" else -((P[:, None] - Q[None]) ** 2).sum(-1)
    best = int(table.argmax())
    return ours[best // len(theirs)], theirs[best % len(theirs)]


@dataclass(frozen=True)
class Table:
    """Similarities of each anchor, in lists that hold nothing but what counts.

    Attributes:
        anchors: the row of each anchor.
        positive_rows: the rows of each anchor's positives, ascending.
        positives: similarity to each of them.
        negatives: similarity to each negative (plain), or one a class (expanded), other classes ascending.
        partner_negatives: for each anchor and each of its positives, the negatives that the positive itself adds in
            the lifted structured loss; empty where both ends share their class's hardest pairs.
        winners: for each anchor and other class the selected pair of points (expanded only).
    """

    anchors: list[int]
    positive_rows: list[list[int]]
    positives: list[list[Tensor]]
    negatives: list[list[Tensor]]
    partner_negatives: list[list[list[Tensor]]]
    winners: list[list[tuple[Point, Point]]]


def _anchors(b: int, rows: Sequence[int] | None, from_memory: Sequence[bool] | None) -> list[int]:
    if rows is not None:
        return list(rows)
    return [i for i in range(b) if from_memory is None or not from_memory[i]]


def plain_table(
    E: Tensor,
    labels: Sequence[int],
    metric: str = "euclidean",
    rows: Sequence[int] | None = None,
    from_memory: Sequence[bool] | None = None,
) -> Table:
    def negatives_of(i: int) -> list[Tensor]:
        return [similarity(E[i], E[k], metric) for k in range(len(labels)) if labels[k] != labels[i]]

    anchors = _anchors(len(labels), rows, from_memory)
    positive_rows = [[j for j in rows_of_class(labels, labels[i]) if j != i] for i in anchors]
    return Table(
        anchors,
        positive_rows,
        [[similarity(E[i], E[j], metric) for j in js] for i, js in zip(anchors, positive_rows, strict=True)],
        [negatives_of(i) for i in anchors],
        [[negatives_of(j) for j in js] for js in positive_rows],
        [],
    )


def expanded_table(
    E: Tensor,
    labels: Sequence[int],
    n: int,
    scope: str = "class_pair",
    normalize: bool = True,
    metric: str = "euclidean",
    rows: Sequence[int] | None = None,
    from_memory: Sequence[bool] | None = None,
) -> Table:
    classes = sorted(set(labels))

    def pairs_of(i: int) -> list[tuple[Point, Point]]:
        others = [label for label in classes if label != labels[i]]
        if scope == "anchor":
            ours = points_of_row(E, i, n, normalize)
            return [hardest_pair(ours, points_of_paired_class(E, labels, y, n, normalize), metric) for y in others]
        if scope == "negative":
            return [hardest_pair([original(E, i)], points_of_class(E, labels, y, n, normalize), metric) for y in others]
        ours = points_of_class(E, labels, labels[i], n, normalize, from_memory)
        return [hardest_pair(ours, points_of_class(E, labels, y, n, normalize), metric) for y in others]

    def read(pairs: list[tuple[Point, Point]]) -> list[Tensor]:
        return [similarity(p.vector, q.vector, metric) for p, q in pairs]

    plain = plain_table(E, labels, metric, rows, from_memory)
    winners = [pairs_of(i) for i in plain.anchors]
    if scope != "class_pair":
        of_partners = [[read(pairs_of(j)) for j in js] for js in plain.positive_rows]
    else:
        of_partners = [[[] for _ in js] for js in plain.positive_rows]
    negatives = [read(pairs) for pairs in winners]
    return Table(plain.anchors, plain.positive_rows, plain.positives, negatives, of_partners, winners)
