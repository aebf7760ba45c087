"""Losses of hinges on distances."""

from __future__ import annotations

import torch
from torch import Tensor

from .tables import Table
from .terms import ZERO, Term, add, distance, hinge, squared


def contrastive(table: Table, margin: float = 1.0) -> list[list[Term]]:
    return [
        [
            (add([squared(s) for s in positives]), len(positives)),
            (add([hinge(margin - distance(s)) ** 2 for s in negatives]), len(negatives)),
        ]
        for positives, negatives in zip(table.positives, table.negatives, strict=True)
    ]


def triplet(table: Table, margin: float = 0.2) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        hinges = [hinge(squared(s) - squared(t) + margin) for s in positives for t in negatives]
        terms.append([(add(hinges), len(positives))])
    return terms


def hphn_triplet(table: Table, margin: float = 0.2, soft_margin: bool = False) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives or not negatives:
            terms.append([(ZERO, 0)])
            continue
        gap = distance(min(positives, key=Tensor.item)) - distance(max(negatives, key=Tensor.item))
        terms.append([(torch.log(1 + torch.exp(gap)) if soft_margin else hinge(gap + margin), 1)])
    return terms
