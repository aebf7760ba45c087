"""Losses of the deviance of a pair from its class."""

from __future__ import annotations

import torch

from .registry import oracle
from .tables import Table
from .terms import Term, add


@oracle("inner", {"alpha": 3.0, "beta": 0.3, "cost": 4.0})
def binomial_deviance(table: Table, alpha: float = 2.0, beta: float = 0.5, cost: float = 25.0) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        pull = add([torch.log(torch.exp(-alpha * (s - beta) * 1) + 1) for s in positives])
        push = add([torch.log(torch.exp(-alpha * (t - beta) * -cost) + 1) for t in negatives])
        terms.append([(pull, len(positives)), (push, len(negatives))])
    return terms
