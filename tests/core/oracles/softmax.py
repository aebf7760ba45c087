"""Losses of a softmax over an anchor's positives and negatives, and angular loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .registry import oracle
from .tables import Table
from .terms import ZERO, Term, add, distance, hinge, squared


@oracle("inner", {"temperature": 0.3})
def nt_xent(table: Table, temperature: float = 0.07) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        values = []
        for s in positives:
            numerator = torch.exp(s / temperature)
            denominator = numerator + add([torch.exp(t / temperature) for t in negatives])
            values.append(-torch.log(numerator / denominator))
        terms.append([(add(values), len(positives))])
    return terms


@oracle("inner", {"temperature": 0.3})
def sup_con(table: Table, temperature: float = 0.1) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        denominator = add([torch.exp(s / temperature) for s in positives + negatives])
        values = [-torch.log(torch.exp(s / temperature) / denominator) for s in positives]
        terms.append([(add(values) / len(positives), 1) if positives else (ZERO, 0)])
    return terms


@oracle("euclidean", {"scale": 4.0})
def nca(table: Table, scale: float = 1.0, objective: str = "log") -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives:
            terms.append([(ZERO, 0)])
            continue
        near = add([torch.exp(-scale * squared(s)) for s in positives])
        share = near / (near + add([torch.exp(-scale * squared(t)) for t in negatives]))
        terms.append([(-torch.log(share) if objective == "log" else 1 - share, 1)])
    return terms


@oracle("inner", {"margin": 10.0, "scale": 8.0})
def tuplet_margin(table: Table, margin: float = 5.73, scale: float = 64.0) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        values = []
        for s in positives:
            cosine = s.clamp(-1, 1)
            angle = torch.acos(cosine.detach() if abs(cosine) >= 1 - 1e-7 else cosine) - math.radians(margin)
            values.append(torch.log(1 + add([torch.exp(scale * (t - torch.cos(angle))) for t in negatives])))
        terms.append([(add(values), len(positives))])
    return terms


@oracle("inner", {"margin": 0.25, "scale": 20.0})
def circle(table: Table, margin: float = 0.4, scale: float = 80.0) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives or not negatives:
            terms.append([(ZERO, 0)])
            continue
        pull = [-scale * hinge(1 + margin - s.detach()) * (s - (1 - margin)) for s in positives]
        push = [scale * hinge(t.detach() + margin) * (t - margin) for t in negatives]
        both = torch.stack([x + y for x in pull for y in push])  # log of the product of the two sums
        terms.append([(torch.logsumexp(torch.cat([both, ZERO[None]]), 0), 1)])
    return terms


@oracle("euclidean", {"margin": 0.4})
def generalized_lifted_structure(table: Table, margin: float = 1.0, positive_margin: float = 0.0) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives or not negatives:
            terms.append([(ZERO, 0)])
            continue
        pull = torch.log(add([torch.exp(distance(s) - positive_margin) for s in positives]))
        push = torch.log(add([torch.exp(margin - distance(t)) for t in negatives]))
        terms.append([(hinge(pull + push), 1)])
    return terms


@oracle("inner", {"angle": 40.0})
def angular(table: Table, angle: float = 45.0) -> list[list[Term]]:
    tangent = math.tan(math.radians(angle)) ** 2
    terms = []
    for positives, negatives, of_partners in zip(
        table.positives, table.negatives, table.partner_negatives, strict=True
    ):
        values = []
        for s, of_partner in zip(positives, of_partners, strict=True):
            both = [t + u for t, u in zip(negatives, of_partner or negatives, strict=True)]  # shared by both, if none
            values.append(torch.log(1 + add([torch.exp(4 * tangent * t - 2 * (1 + tangent) * s) for t in both])))
        terms.append([(add(values), len(positives))])
    return terms


@oracle("inner", {"temperature": 0.3, "hard_weight": 0.5, "form": "program"})
def selectively_contrastive(
    table: Table, temperature: float = 0.1, hard_weight: float = 1.0, form: str = "equation"
) -> list[list[Term]]:
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        usable = [s for s in positives if form == "equation" or s <= 0.9999]
        if not usable or not negatives:
            terms.append([(ZERO, 0)])
            continue
        near, far = max(usable, key=Tensor.item), max(negatives, key=Tensor.item)
        if far - near > 1e-13 or (form == "program" and far > 0.8):
            terms.append([(hard_weight * far, 1)])
        else:
            both = torch.exp(near / temperature), torch.exp(far / temperature)
            terms.append([(-torch.log(both[0] / (both[0] + both[1])), 1)])
    return terms
