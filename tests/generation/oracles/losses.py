"""The base losses, of embeddings and labels."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(row: Tensor) -> Tensor:
    return row / row.dot(row).sqrt()


def multi_similarity(rows: list[Tensor], labels: list[int], alpha: float, beta: float, base: float) -> Tensor:
    total = torch.zeros(())
    for i, row in enumerate(rows):
        pull = push = torch.zeros(())
        for j, other in enumerate(rows):
            if labels[i] != labels[j]:
                push = push + torch.exp(beta * (row.dot(other) - base))
            elif i != j:
                pull = pull + torch.exp(-alpha * (row.dot(other) - base))
        total = total + torch.log(1 + pull) / alpha + torch.log(1 + push) / beta
    return total / len(rows)


def proxy_anchor(rows: list[Tensor], labels: list[int], proxies: list[Tensor], margin: float, alpha: float) -> Tensor:
    pull = push = torch.zeros(())
    present = set(labels)
    for number, proxy in enumerate(proxies):
        near = away = torch.zeros(())
        for row, label in zip(rows, labels, strict=True):
            similarity = unit(row).dot(unit(proxy))
            if label == number:
                near = near + torch.exp(-alpha * (similarity - margin))
            else:
                away = away + torch.exp(alpha * (similarity + margin))
        if number in present:
            pull = pull + torch.log(1 + near)
        push = push + torch.log(1 + away)
    return pull / len(present) + push / len(proxies)


def triplet_all(rows: list[Tensor], labels: list[int], margin: float) -> Tensor:
    """The mean over positive pairs of the hinges of all their triplets."""
    total, pairs = torch.zeros(()), 0
    for i, row in enumerate(rows):
        for j, other in enumerate(rows):
            if i == j or labels[i] != labels[j]:
                continue
            pairs += 1
            for k, third in enumerate(rows):
                if labels[k] != labels[i]:
                    total = total + (apart(row, other) - apart(row, third) + margin).clamp(min=0)
    return total / pairs


def apart(one: Tensor, other: Tensor) -> Tensor:
    """The squared distance."""
    return (one - other).dot(one - other)
