"""Losses of logarithms of sums of exponentials."""

from __future__ import annotations

import torch

from .registry import oracle
from .tables import Table
from .terms import Term, add, distance, hinge


@oracle("inner", {"scale": 3.0})
def n_pair(table: Table, scale: float = 1.0) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        logs = [torch.log(1 + add([torch.exp(scale * (t - s)) for t in negatives])) for s in positives]
        terms.append([(add(logs), len(positives))])
    return terms


@oracle("euclidean", {"margin": 0.4})
def lifted_structure(table: Table, margin: float = 1.0) -> list[list[Term]]:
    terms = []
    for positives, negatives, of_partners in zip(
        table.positives, table.negatives, table.partner_negatives, strict=True
    ):
        halves = []
        for s, of_partner in zip(positives, of_partners, strict=True):
            both = [torch.exp(margin - distance(t)) for t in negatives + of_partner]
            if both:
                halves.append(hinge(torch.log(add(both)) + distance(s)) ** 2 / 2)
        terms.append([(add(halves), len(positives))])
    return terms


@oracle("inner", {"alpha": 3.0, "beta": 20.0, "base": 0.3})
def multi_similarity(table: Table, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        pull = torch.log(1 + add([torch.exp(-alpha * (s - base)) for s in positives])) / alpha
        push = torch.log(1 + add([torch.exp(beta * (t - base)) for t in negatives])) / beta
        terms.append([(pull + push, 1)])
    return terms
