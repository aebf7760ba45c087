"""Which rows of a batch belong together, from the labels alone."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def by_class(labels: Int[Tensor, " b"]) -> dict[int, list[int]]:
    """The rows of each class, in the order of the batch."""
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        rows.setdefault(label, []).append(row)
    return rows


def two_by_two(labels: Int[Tensor, " b"]) -> Int[Tensor, "q 2"]:
    """The rows of each class taken two at a time; the last row of a class with an odd number is left out."""
    pairs = [
        (rows[place], rows[place + 1]) for rows in by_class(labels).values() for place in range(0, len(rows) - 1, 2)
    ]
    return torch.tensor(pairs, dtype=torch.int64, device=labels.device).reshape(-1, 2)


def next_of_class(labels: Int[Tensor, " b"]) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], Int[Tensor, " k"]]:
    """The rows that are not alone in their class, the next row of the class for each, and its place in the class.

    The first row follows the last one.
    """
    found = [
        (row, rows[(place + 1) % len(rows)], place)
        for rows in by_class(labels).values()
        if len(rows) > 1
        for place, row in enumerate(rows)
    ]
    rows, others, places = torch.tensor(found, dtype=torch.int64, device=labels.device).reshape(-1, 3).unbind(dim=1)
    return rows, others, places


def next_of_other_class(labels: Int[Tensor, " b"]) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """Each row and the next row of another class, the batch taken as a circle; none if there is one class only."""
    given = labels.tolist()
    found = []
    for row, label in enumerate(given):
        following = (other % len(given) for other in range(row + 1, row + len(given)))
        other = next((each for each in following if given[each] != label), None)
        if other is not None:
            found.append((row, other))
    rows, others = torch.tensor(found, dtype=torch.int64, device=labels.device).reshape(-1, 2).unbind(dim=1)
    return rows, others
