"""Losses on proxies: loops over explicit unit vectors, one similarity at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..explicit import Point, original, points_of_class, points_of_row
from .tables import hardest_pair, similarity
from .terms import ZERO, Term, add, squared


@dataclass(frozen=True)
class Row:
    """What one anchor is compared with.

    Attributes:
        own: similarities to the proxies of its class (Proxy-Anchor: of the proxy to the rows of its class).
        others: for each other class its similarities: to its proxies, or to its rows.
    """

    own: list[Tensor]
    others: list[list[Tensor]]


def rows_against_proxies(
    E: Tensor, labels: Sequence[int], P: Tensor, k: int, n: int | None = None, scope: str = "class_pair"
) -> list[Row]:
    """Every row of the batch against k proxies a class; with n the hardest point of its class, or of the row."""
    rows = []
    for i, label in enumerate(labels):
        others = []
        for z in range(len(P) // k):
            if z == label:
                continue
            theirs: list[Point] = [original(P, z * k + j) for j in range(k)]
            if n is None:
                others.append([similarity(E[i], p.vector, "inner") for p in theirs])
                continue
            points = [original(E, i)]
            if scope != "negative":
                of_class = scope == "class_pair"
                points = points_of_class(E, labels, label, n, True) if of_class else points_of_row(E, i, n, True)
            x, p = hardest_pair(points, theirs, "inner")
            others.append([similarity(x.vector, p.vector, "inner")])
        rows.append(Row([similarity(E[i], P[label * k + j], "inner") for j in range(k)], others))
    return rows


def proxies_against_rows(E: Tensor, labels: Sequence[int], P: Tensor, n: int | None = None) -> list[Row]:
    """Every proxy against the batch; with n against the hardest point of every other class."""
    rows = []
    for c in range(len(P)):
        others = []
        for z in sorted(set(labels) - {c}):
            if n is None:
                others.append([similarity(P[c], E[i], "inner") for i in range(len(labels)) if labels[i] == z])
            else:
                p, x = hardest_pair([original(P, c)], points_of_class(E, labels, z, n, True), "inner")
                others.append([similarity(p.vector, x.vector, "inner")])
        rows.append(Row([similarity(P[c], E[i], "inner") for i in range(len(labels)) if labels[i] == c], others))
    return rows


def proxy_nca(row: Row, scale: float = 1.0, whole_softmax: bool = False) -> list[Term]:
    own = torch.exp(-scale * squared(row.own[0]))
    below = add([torch.exp(-scale * squared(s)) for (s,) in row.others])
    return [(-torch.log(own / (below + own if whole_softmax else below)), 1)]


def _softmax(target: Tensor, others: list[Tensor], scale: float) -> list[Term]:
    own = torch.exp(scale * target)
    return [(-torch.log(own / (own + add([torch.exp(scale * s) for s in others]))), 1)]


def normalized_softmax(row: Row, temperature: float = 0.05) -> list[Term]:
    return _softmax(row.own[0], [s for (s,) in row.others], 1 / temperature)


def cosface(row: Row, margin: float = 0.35, scale: float = 64.0) -> list[Term]:
    return _softmax(row.own[0] - margin, [s for (s,) in row.others], scale)


def _angular(cosine: Tensor, margin: float) -> Tensor:
    angle = torch.acos(cosine)
    return torch.cos(angle + margin) if angle.item() + margin <= math.pi else cosine - margin * math.sin(margin)


def arcface(row: Row, margin: float = 0.5, scale: float = 64.0) -> list[Term]:
    return _softmax(_angular(row.own[0], margin), [s for (s,) in row.others], scale)


def sub_center_arcface(row: Row, margin: float = 0.5, scale: float = 64.0) -> list[Term]:
    def nearest(centers: list[Tensor]) -> Tensor:
        return max(centers, key=Tensor.item)

    return _softmax(_angular(nearest(row.own), margin), [nearest(others) for others in row.others], scale)


def soft_triple(row: Row, margin: float = 0.01, scale: float = 20.0, gamma: float = 0.1) -> list[Term]:
    def relaxed(centers: list[Tensor]) -> Tensor:
        below = add([torch.exp(s / gamma) for s in centers])
        return add([torch.exp(s / gamma) / below * s for s in centers])

    return _softmax(relaxed(row.own) - margin, [relaxed(others) for others in row.others], scale)


def proxy_anchor(row: Row, margin: float = 0.1, alpha: float = 32.0) -> list[Term]:
    pull = torch.log(1 + add([torch.exp(-alpha * (s - margin)) for s in row.own]))
    push = torch.log(1 + add([torch.exp(alpha * (s + margin)) for others in row.others for s in others]))
    return [(pull if row.own else ZERO, 1 if row.own else 0), (push, 1)]


def spread(P: Tensor, k: int) -> Tensor:
    """What draws SoftTriple's centres together."""
    total, classes = ZERO, len(P) // k
    for c in range(classes):
        for t in range(k):
            for s in range(t + 1, k):
                total = total + ((P[c * k + t] - P[c * k + s]) ** 2).sum().sqrt()
    return total / (classes * k * (k - 1))


ORACLES: dict[str, Callable[..., list[Term]]] = {
    "proxy_nca": proxy_nca,
    "normalized_softmax": normalized_softmax,
    "cosface": cosface,
    "arcface": arcface,
    "sub_center_arcface": sub_center_arcface,
    "soft_triple": soft_triple,
    "proxy_anchor": proxy_anchor,
}
