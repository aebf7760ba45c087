"""Symmetrical Synthesis and LoOp. A pair is two embeddings of a class; pairs of other classes give the negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .losses import apart, unit

Pair = tuple[Tensor, Tensor]


def reflected(row: Tensor, about: Tensor) -> Tensor:
    direction = unit(about)
    return 2 * row.dot(direction) * direction - row


def points(pair: Pair) -> list[Tensor]:
    first, second = pair
    return [first, second, reflected(first, second), reflected(second, first)]


def most(one: Pair, other: Pair) -> Tensor:
    """The largest inner product of the six combinations of two kinds of points."""
    mine, theirs = points(one), points(other)
    return torch.stack([mine[u].dot(theirs[v]) for u in range(4) for v in range(u + 1, 4)]).max()


def symmetrical_n_pair(pairs: list[Pair], classes: list[int], l2: float, easiest_positive: bool) -> Tensor:
    total, norms = torch.zeros(()), torch.zeros(())
    for i, pair in enumerate(pairs):
        positive = most(pair, pair) if easiest_positive else pair[0].dot(pair[1])
        against = [most(pair, pairs[j]) for j in range(len(pairs)) if classes[j] != classes[i]]
        total = total + torch.log(torch.exp(positive) + sum(torch.exp(each) for each in against)) - positive
        norms = norms + pair[0].dot(pair[0]) + pair[1].dot(pair[1])
    return total / len(pairs) + 0.25 * l2 * norms / len(pairs)


def symmetrical_triplet(pairs: list[Pair], classes: list[int], margin: float) -> Tensor:
    total = torch.zeros(())
    for i, pair in enumerate(pairs):
        for j, other in enumerate(pairs):
            if classes[j] != classes[i]:
                least = torch.stack([apart(x, y) for x in points(pair) for y in points(other)]).min()
                total = total + (apart(*pair) - least + margin).clamp(min=0)
    return total / len(pairs)  # both ends of a pair have the same negatives


def nearest(one: Pair, other: Pair, on_sphere: bool, steps: int = 400) -> tuple[float, float]:
    """The least distance of points of two arcs or segments and their largest inner product, by trying many points."""

    def many(pair: Pair) -> Tensor:
        t = torch.linspace(0, 1, steps + 1, dtype=pair[0].dtype)[:, None]
        line = (1 - t) * pair[0] + t * pair[1]
        return line / line.norm(dim=1, keepdim=True) if on_sphere else line

    products = many(one) @ many(other).T
    return float(torch.cdist(many(one), many(other)).min()), float(products.max())


def loop_value(
    form: str, pairs: list[Pair], classes: list[int], given: dict[str, float], order: list[int], mining: float = -0.02
) -> float:
    on_sphere, terms = form != "n_pair", []
    if form == "triplet":
        half = len(order) // 2
        for i, j in zip(order[:half], order[half:], strict=False):
            if classes[i] != classes[j]:
                d = math.sqrt(float(apart(*pairs[i])))
                terms.append(max(d - nearest(pairs[i], pairs[j], True)[0] + given["margin"], 0))
        return sum(terms) / len(terms)
    for i, pair in enumerate(pairs):
        d, s = math.sqrt(float(apart(*pair))), float(pair[0].dot(pair[1]))
        found = [nearest(pair, pairs[j], on_sphere) for j in range(len(pairs)) if classes[j] != classes[i]]
        if form == "hphn_triplet":
            terms.append(max(d - min(D for D, _ in found) + given["margin"], 0))
        elif form == "lifted_structure":
            terms.append(max(math.log(sum(math.exp(-D) for D, _ in found)) + d + given["margin"], 0))
        elif form == "n_pair":
            terms.append(math.log(1 + sum(math.exp(S) for _, S in found) * math.exp(-s)))
        else:
            alpha, beta, base = given["alpha"], given["beta"], given["base"]
            push = sum(math.exp(beta * (S - base)) for _, S in found if S + mining > s)
            terms.append(math.log(1 + math.exp(-alpha * (s - base))) / alpha + math.log(1 + push) / beta)
    return sum(terms) / len(terms)
