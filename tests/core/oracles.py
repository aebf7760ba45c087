"""Slow, obvious loops of every equation, written from the paper's formulas and apart from the source.

Everything is built out of explicit points (explicit.py, torch vectors in float64), one pair at a time, so that autograd
gives the gradient of the explicit construction. Nothing here knows the Gram matrix, masks, slots or padding.

    points of a class or a row  ->  Table (similarities, one list per anchor)  ->  terms (one list per anchor)  ->  mean
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .explicit import Point, points_of_class, points_of_paired_class, points_of_row, rows_of_class

# --- similarities -----------------------------------------------------------------------------------------------------


def similarity(p: Tensor, q: Tensor, metric: str) -> Tensor:
    if metric == "inner":
        return (p * q).sum()
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


def _anchors(b: int, rows: Sequence[int] | None, past: Sequence[bool] | None) -> list[int]:
    if rows is not None:
        return list(rows)
    return [i for i in range(b) if past is None or not past[i]]


def plain_table(
    E: Tensor,
    labels: Sequence[int],
    metric: str = "euclidean",
    rows: Sequence[int] | None = None,
    past: Sequence[bool] | None = None,
) -> Table:
    def negatives_of(i: int) -> list[Tensor]:
        return [similarity(E[i], E[k], metric) for k in range(len(labels)) if labels[k] != labels[i]]

    anchors = _anchors(len(labels), rows, past)
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
    past: Sequence[bool] | None = None,
) -> Table:
    classes = sorted(set(labels))

    def pairs_of(i: int) -> list[tuple[Point, Point]]:
        others = [label for label in classes if label != labels[i]]
        if scope == "anchor":
            ours = points_of_row(E, i, n, normalize)
            return [hardest_pair(ours, points_of_paired_class(E, labels, y, n, normalize), metric) for y in others]
        ours = points_of_class(E, labels, labels[i], n, normalize, past)
        return [hardest_pair(ours, points_of_class(E, labels, y, n, normalize), metric) for y in others]

    def read(pairs: list[tuple[Point, Point]]) -> list[Tensor]:
        return [similarity(p.vector, q.vector, metric) for p, q in pairs]

    plain = plain_table(E, labels, metric, rows, past)
    winners = [pairs_of(i) for i in plain.anchors]
    if scope == "anchor":
        of_partners = [[read(pairs_of(j)) for j in js] for js in plain.positive_rows]
    else:
        of_partners = [[[] for _ in js] for js in plain.positive_rows]
    negatives = [read(pairs) for pairs in winners]
    return Table(plain.anchors, plain.positive_rows, plain.positives, negatives, of_partners, winners)


# --- losses: for each anchor a list of (total, weight), one a mean ----------------------------------------------------

Term = tuple[Tensor, float]
ZERO = torch.zeros((), dtype=torch.float64)


def _squared(s: Tensor) -> Tensor:
    return 2 - 2 * s


def _distance(s: Tensor) -> Tensor:
    return (2 - 2 * s).sqrt()


def _add(values: Sequence[Tensor]) -> Tensor:
    total = ZERO
    for value in values:
        total = total + value
    return total


def _hinge(value: Tensor) -> Tensor:
    return value.clamp(min=0)


def contrastive(table: Table, margin: float = 1.0) -> list[list[Term]]:
    return [
        [
            (_add([_squared(s) for s in positives]), len(positives)),
            (_add([_hinge(margin - _distance(s)) ** 2 for s in negatives]), len(negatives)),
        ]
        for positives, negatives in zip(table.positives, table.negatives, strict=True)
    ]


def triplet(table: Table, margin: float = 0.2) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        hinges = [_hinge(_squared(s) - _squared(t) + margin) for s in positives for t in negatives]
        terms.append([(_add(hinges), len(positives))])
    return terms


def hphn_triplet(table: Table, margin: float = 0.2, soft_margin: bool = False) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives or not negatives:
            terms.append([(ZERO, 0)])
            continue
        gap = _distance(min(positives, key=Tensor.item)) - _distance(max(negatives, key=Tensor.item))
        terms.append([(torch.log(1 + torch.exp(gap)) if soft_margin else _hinge(gap + margin), 1)])
    return terms


def n_pair(table: Table, scale: float = 1.0) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        logs = [torch.log(1 + _add([torch.exp(scale * (t - s)) for t in negatives])) for s in positives]
        terms.append([(_add(logs), len(positives))])
    return terms


def lifted_structure(table: Table, margin: float = 1.0) -> list[list[Term]]:
    terms = []
    for positives, negatives, of_partners in zip(
        table.positives, table.negatives, table.partner_negatives, strict=True
    ):
        halves = []
        for s, of_partner in zip(positives, of_partners, strict=True):
            both = [torch.exp(margin - _distance(t)) for t in negatives + of_partner]
            if both:
                halves.append(_hinge(torch.log(_add(both)) + _distance(s)) ** 2 / 2)
        terms.append([(_add(halves), len(positives))])
    return terms


def multi_similarity(table: Table, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        pull = torch.log(1 + _add([torch.exp(-alpha * (s - base)) for s in positives])) / alpha
        push = torch.log(1 + _add([torch.exp(beta * (t - base)) for t in negatives])) / beta
        terms.append([(pull + push, 1)])
    return terms


ORACLES: dict[str, Callable[..., list[list[Term]]]] = {
    "contrastive": contrastive,
    "triplet": triplet,
    "hphn_triplet": hphn_triplet,
    "n_pair": n_pair,
    "lifted_structure": lifted_structure,
    "multi_similarity": multi_similarity,
}

METRICS = {
    "contrastive": "euclidean",
    "triplet": "euclidean",
    "hphn_triplet": "euclidean",
    "n_pair": "inner",
    "lifted_structure": "euclidean",
    "multi_similarity": "inner",
}


def totals(terms: list[list[Term]]) -> Tensor:
    """The totals as (t, a)."""
    return torch.stack([torch.stack([total for total, _ in anchor]) for anchor in terms]).T


def weights(terms: list[list[Term]]) -> Tensor:
    """The weights as (t, a)."""
    return torch.tensor([[float(weight) for _, weight in anchor] for anchor in terms], dtype=torch.float64).T


def mean(terms: list[list[Term]]) -> Tensor:
    """The value: a mean of its own for each t; what weighs nothing adds nothing."""
    value = ZERO
    for total, weight in zip(totals(terms), weights(terms), strict=True):
        if float(weight.sum()) > 0:
            value = value + total.sum() / weight.sum()
    return value


def gradient(value: Tensor, E: Tensor) -> Tensor:
    """Gradient of an oracle's value, zero where it does not depend on the embeddings at all."""
    if not value.requires_grad:
        return torch.zeros_like(E)
    (found,) = torch.autograd.grad(value, E, retain_graph=True)
    return found
