"""Methods that add samples to the batch: DAS, IAA, Proxy Synthesis, MemVir, Metrix."""

from __future__ import annotations

import torch
from torch import Tensor

from .losses import unit


def das_copy(
    row: Tensor, batches: list[tuple[list[Tensor], list[int]]], label: int, factors: Tensor, drawn: float, kept: int
) -> Tensor:
    """The copy of a row of the last of some batches: its class's most frequent channels scaled, a difference added."""
    counts, differences = [0] * len(row), []
    for rows, labels in batches:
        own = [each for each, of in zip(rows, labels, strict=True) if of == label]
        for each in own:
            for channel in sorted(range(len(each)), key=lambda place: -float(each[place]))[: len(factors)]:
                counts[channel] += 1
        if len(own) > 1:
            differences += [own[(place + 1) % len(own)] - each for place, each in enumerate(own)]
    chosen = sorted(range(len(row)), key=lambda place: -counts[place])[: len(factors)]
    copy = row.clone()
    for channel, factor in zip(chosen, factors, strict=True):
        copy[channel] = copy[channel] * factor
    # A queue of fixed length: the latest differences, in the places where they entered.
    places: list[Tensor] = []
    for number, difference in enumerate(differences):
        if number < kept:
            places.append(difference)
        else:
            places[number % kept] = difference
    return unit(copy + 0.01 * places[int(drawn * len(places))]) if places else unit(copy)


def deviations(samples: list[Tensor]) -> Tensor:
    """The standard deviation of each channel over all samples, divided by their number."""
    mean = sum(samples[1:], samples[0]) / len(samples)
    return (sum(((each - mean) ** 2 for each in samples[1:]), (samples[0] - mean) ** 2) / len(samples)).sqrt()


def mixed_neighbours(rows: list[Tensor], labels: list[int], share: float) -> list[tuple[Tensor, int, int]]:
    """Each row mixed with the next row of another class, and the numbers of both."""
    found = []
    for i, row in enumerate(rows):
        j = (i + 1) % len(rows)
        while labels[j] == labels[i]:
            j = (j + 1) % len(rows)
        found.append((share * row + (1 - share) * rows[j], i, j))
    return found


def metrix_mixtures(
    anchor: Tensor, near: list[Tensor], away: list[Tensor], shares: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The similarity of each mixture to its anchor and how positive it is; shares is (near, away)."""
    found = []
    for i, one in enumerate(near):
        for j, other in enumerate(away):
            mixture = shares[i, j] * one + (1 - shares[i, j]) * other
            found.append((anchor.dot(unit(mixture)), shares[i, j]))
    return found


def metrix_multi_similarity(mixtures: list[list[tuple[Tensor, Tensor]]], a: float, b: float, base: float) -> Tensor:
    total = torch.zeros(())
    for of_anchor in mixtures:
        pull = sum((y * torch.exp(-a * (s - base)) for s, y in of_anchor), torch.zeros(()))
        push = sum(((1 - y) * torch.exp(b * (s - base)) for s, y in of_anchor), torch.zeros(()))
        total = total + torch.log(1 + pull) / a + torch.log(1 + push) / b
    return total / len(mixtures)


def metrix_contrastive(mixtures: list[list[tuple[Tensor, Tensor]]], margin: float) -> Tensor:
    pull = push = near = away = torch.zeros(())
    for s, y in [each for of_anchor in mixtures for each in of_anchor]:
        pull, near = pull + y * (2 - 2 * s), near + y
        push, away = push + (1 - y) * (margin - (2 - 2 * s).sqrt()).clamp(min=0) ** 2, away + 1 - y
    return pull / near + push / away


def metrix_proxy_anchor(mixtures: list[list[tuple[Tensor, Tensor]]], margin: float, alpha: float) -> Tensor:
    total = torch.zeros(())
    for of_anchor in mixtures:
        pull = sum((y * torch.exp(-alpha * (s - margin)) for s, y in of_anchor), torch.zeros(()))
        push = sum(((1 - y) * torch.exp(alpha * (s + margin)) for s, y in of_anchor), torch.zeros(()))
        total = total + torch.log(1 + pull) + torch.log(1 + push)
    return total / len(mixtures)
