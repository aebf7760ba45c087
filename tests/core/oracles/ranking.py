"""Losses that stand for a measure of the ranking, and those that look at the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import oracle
from .tables import Table
from .terms import ZERO, Term, add, hinge, squared


@oracle("euclidean", {"bins": 5})
def fast_ap(table: Table, bins: int = 10) -> list[list[Term]]:
    width = 4 / bins
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives:
            terms.append([(ZERO, 0)])
            continue
        precision, above, everything = ZERO, ZERO, ZERO
        for edge in range(bins + 1):
            near, away = (
                add([hinge(1 - (squared(s).clamp(max=4) - edge * width).abs() / width) for s in values])
                for values in (positives, negatives)
            )
            above, everything = above + near, everything + near + away
            if everything > 0:
                precision = precision + near * above / everything
        terms.append([(1 - precision / len(positives), 1)])
    return terms


def _before(values: list[Tensor], s: Tensor, temperature: float) -> Tensor:
    return add([torch.sigmoid((t - s) / temperature) for t in values])


@oracle("inner", {"temperature": 0.1})
def smooth_ap(table: Table, temperature: float = 0.01, query_counts: bool = False) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives:
            terms.append([(ZERO, 0)])
            continue
        relevant = [*positives, torch.ones((), dtype=torch.float64)] if query_counts else positives
        precision = ZERO
        for i, s in enumerate(relevant):
            right = _before(relevant[:i] + relevant[i + 1 :], s, temperature)
            precision = precision + (1 + right) / (1 + right + _before(negatives, s, temperature))
        terms.append([(1 - precision / len(relevant), 1)])
    return terms


@oracle("inner", {"ks": (1, 3), "temperature": 0.1})
def recall_at_k(
    table: Table,
    ks: tuple[int, ...] = (1, 2, 4, 8, 16),
    rank_temperature: float = 1.0,
    temperature: float = 0.01,
    form: str = "equation",
) -> list[list[Term]]:
    if form == "program":
        return recall_at_k_of_the_program(table, ks, rank_temperature, temperature)
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives:
            terms.append([(ZERO, 0)])
            continue
        total = ZERO
        for k in ks:
            reached = []
            for i, s in enumerate(positives):
                rank = 1 + _before(positives[:i] + positives[i + 1 :] + negatives, s, temperature)
                reached.append(torch.sigmoid((k - rank) / rank_temperature))
            total = total + (1 - add(reached) / len(positives)) / len(ks)
        terms.append([(total, 1)])
    return terms


def recall_at_k_of_the_program(
    table: Table, ks: tuple[int, ...], rank_temperature: float, temperature: float
) -> list[list[Term]]:
    """Everything that the query is compared with is ranked, itself, of similarity 1, among it."""
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives:
            terms.append([(ZERO, 0)])
            continue
        itself = torch.ones((), dtype=torch.float64)
        recalls = []
        for k in ks:
            found = []
            for i, s in enumerate(positives):
                rank = 1 + _before([itself, *positives[:i], *positives[i + 1 :], *negatives], s, temperature)
                found.append(torch.sigmoid((k - rank) / (rank_temperature * k)))
            recalls.append(torch.minimum(add(found), torch.tensor(float(k))) / min(k, len(positives)))
        terms.append([(1 - add(recalls) / len(ks), 1)])
    return terms


@oracle("inner", {"positive_epsilon": 0.1})
def intra_pair_variance(
    table: Table, positive_epsilon: float = 0.01, negative_epsilon: float = 0.01
) -> list[list[Term]]:
    all_positives = [s for positives in table.positives for s in positives]
    all_negatives = [t for negatives in table.negatives for t in negatives]
    near, away = (add(values) / max(1, len(values)) for values in (all_positives, all_negatives))
    return [
        [
            (add([hinge((1 - positive_epsilon) * near - s) ** 2 for s in positives]), len(positives)),
            (add([hinge(t - (1 + negative_epsilon) * away) ** 2 for t in negatives]), len(negatives)),
        ]
        for positives, negatives in zip(table.positives, table.negatives, strict=True)
    ]


@oracle("inner", {"bins": 20})
def histogram(table: Table, bins: int = 100) -> list[list[Term]]:
    """Equations 2 to 4, node by node; each negative's share of the sum over nodes is its term."""
    width = 2 / bins
    nodes = [-1 + r * width for r in range(bins + 1)]

    def weight(s: Tensor, node: float) -> Tensor:
        return hinge(1 - (s.clamp(-1, 1) - node).abs() / width)

    all_positives = [s for positives in table.positives for s in positives]
    running, below = ZERO, []
    for node in nodes:
        running = running + add([weight(s, node) for s in all_positives]) / max(1, len(all_positives))
        below.append(running)
    terms = []
    for negatives in table.negatives:
        reverse = [weight(t, node) * phi for t in negatives for node, phi in zip(nodes, below, strict=True)]
        terms.append([(add(reverse), len(negatives))])
    return terms
