"""Losses of hinges on the distances of pairs and of triplets."""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import oracle
from .tables import Table
from .terms import ZERO, Term, add, distance, hinge
from .terms import squared as squared_

TIE = 1e-13  # what rounding makes of equal distances in float64


@oracle("euclidean", {"margin": 0.6})
def contrastive(table: Table, margin: float = 1.0, squared: bool = True, average: str = "all") -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        power = 2 if squared else 1
        pull = [squared_(s) if squared else distance(s) for s in positives]
        push = [hinge(margin - distance(s)) ** power for s in negatives]
        if average == "active":
            pull, push = ([value for value in values if value > TIE**power] for values in (pull, push))
        terms.append([(add(pull), len(pull)), (add(push), len(push))])
    return terms


@oracle("euclidean", {"margin": 0.9, "mining": "semihard"})
def triplet(
    table: Table,
    margin: float = 0.2,
    mining: str = "all",
    soft_margin: bool = False,
    squared: bool = True,
    average: str = "all",
) -> list[list[Term]]:
    apart = squared_ if squared else distance
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if mining == "easy_positive":
            positives = [max(positives, key=Tensor.item)] if positives else []
        values = []
        for s in positives:
            for t in negatives:
                gap = apart(s) - apart(t)
                if mining == "hard" and not gap >= -TIE:
                    continue
                if mining == "semihard" and not -margin - TIE <= gap < -TIE:
                    continue
                values.append(torch.log(1 + torch.exp(gap)) if soft_margin else hinge(gap + margin))
        active = sum(bool(value > 0) for value in values)
        terms.append([(add(values), active if average == "active" else len(positives))])
    return terms


@oracle("euclidean", {"margin": 0.9, "soft_margin": True})
def hphn_triplet(table: Table, margin: float = 0.2, soft_margin: bool = False) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives or not negatives:
            terms.append([(ZERO, 0)])
            continue
        gap = distance(min(positives, key=Tensor.item)) - distance(max(negatives, key=Tensor.item))
        terms.append([(torch.log(1 + torch.exp(gap)) if soft_margin else hinge(gap + margin), 1)])
    return terms


@oracle("euclidean", {"margin": 0.3, "beta": 0.9})
def margin(table: Table, margin: float = 0.2, beta: float = 1.2, count: str = "pairs") -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        pull = [hinge(distance(s) - beta + margin) for s in positives]
        push = [hinge(beta - distance(t) + margin) for t in negatives]
        if count == "triplets":
            pull, push = [x for x in pull for _ in negatives], [y for _ in positives for y in push]
        terms.append([(add(pull) + add(push), sum(bool(x > 0) for x in pull + push))])
    return terms


@oracle("euclidean", {"margin": 0.2, "negative_temperature": 3.0})
def ranked_list(
    table: Table,
    margin: float = 0.4,
    alpha: float = 1.2,
    positive_temperature: float = 0.0,
    negative_temperature: float = 10.0,
    imbalance: float = 0.5,
) -> list[list[Term]]:
    def weighed(violations: list[Tensor], temperature: float) -> Tensor:
        violations = [v for v in violations if v > 0]
        if not violations:
            return ZERO
        weights = [torch.exp(temperature * v) for v in violations]
        return add([w * v for w, v in zip(weights, violations, strict=True)]) / add(weights)

    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        pull = weighed([distance(s) - (alpha - margin) for s in positives], positive_temperature)
        push = weighed([alpha - distance(t) for t in negatives], negative_temperature)
        terms.append([((1 - imbalance) * pull + imbalance * push, 1)])
    return terms


@oracle("snr", {"margin": 1.5}, expandable=False)
def snr_contrastive(
    table: Table, margin: float = 1.0, positive_margin: float = 0.0, average: str = "all"
) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        pull = [hinge(2 * (1 - s) - positive_margin) for s in positives]
        push = [hinge(margin - 2 * (1 - t)) for t in negatives]
        if average == "active":
            pull, push = ([value for value in values if value > 0] for values in (pull, push))
        terms.append([(add(pull), len(pull)), (add(push), len(push))])
    return terms
