"""The objectives of DAML, HDML and DVML, one triplet after the other, given what the networks computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .losses import apart, unit

Map = Callable[[Tensor], Tensor]
Triplet = tuple[int, int, list[int]]  # an anchor, a positive and the negatives


def pairs_and_negatives(labels: list[int], of_each_class: bool, drawn: Sequence[int] = ()) -> list[Triplet]:
    """Anchors and positives two at a time; the negative drawn for each, or the first positive of each other class."""
    pairs = []
    for label in sorted(set(labels), key=labels.index):
        rows = [row for row, of in enumerate(labels) if of == label]
        pairs += [(rows[k], rows[k + 1]) for k in range(0, len(rows) - 1, 2)]
    if not of_each_class:
        return [(a, p, [drawn[number]]) for number, (a, p) in enumerate(pairs)]
    first: dict[int, int] = {}
    for a, p in pairs:
        first.setdefault(labels[a], p)
    return [(a, p, [row for label, row in first.items() if label != labels[a]]) for a, p in pairs]


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def base(kind: str, a: Tensor, p: Tensor, negatives: list[Tensor], margin: float) -> Tensor:
    """The loss of one anchor."""
    if kind == "triplet":
        return (apart(a, p) - apart(a, negatives[0]) + margin).clamp(min=0)
    return torch.log(1 + torch.stack([torch.exp(a.dot(n) - a.dot(p)) for n in negatives]).sum())


def daml(
    kind: str, features: Tensor, head: Map, generator: Map, triplets: list[Triplet], margin: float, l1: float, l2: float
) -> tuple[Tensor, Tensor]:
    """The metric and the generator's objective."""
    norm = mean([row.norm() for row in features])
    metric, generated = [], []
    for a, p, negatives in triplets:
        made = [generator(torch.cat([features[a], features[p], features[n]]) / norm) for n in negatives]
        of_a, of_p = unit(head(features[a])), unit(head(features[p]))
        of_made = [unit(head(each * norm)) for each in made]
        metric.append(base(kind, of_a, of_p, of_made, margin) / 2)
        for each, embedded, n in zip(made, of_made, negatives, strict=True):
            fooled = (apart(of_a, embedded) - apart(of_a, of_p) - margin).clamp(min=0) / 2
            generated.append(apart(each, features[a] / norm) + l1 * apart(each, features[n] / norm) + l2 * fooled)
    return mean(metric), mean(generated)


def pulled(a: Tensor, p: Tensor, n: Tensor, alpha: float, average: float) -> Tensor:
    near, away = apart(a, p).sqrt(), apart(a, n).sqrt()
    if near >= away:
        return n
    return a + (n - a) * (near + (away - near) * torch.exp(torch.tensor(-alpha / average))) / away


def hdml_metric(
    kind: str, z: Tensor, again: Tensor, made: list[list[Tensor]], triplets: list[Triplet], margin: float, weight: float
) -> Tensor:
    """W J_m + (1 - w) J_syn; `again` are the embeddings of G(z), `made` those of the generated negatives."""
    plain = [base(kind, z[a], z[p], [z[n] for n in negatives], margin) for a, p, negatives in triplets]
    synthetic = [base(kind, again[a], again[p], made[k], margin) for k, (a, p, _) in enumerate(triplets)]
    return weight * mean(plain) + (1 - weight) * mean(synthetic)


def divergence(centre: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(centre, variance) | N(0, I)) of one row, from torch's own formula."""
    given = torch.distributions.Normal(centre, (log_variance / 2).exp())
    usual = torch.distributions.Normal(torch.zeros_like(centre), torch.ones_like(centre))
    return torch.distributions.kl_divergence(given, usual).sum()
