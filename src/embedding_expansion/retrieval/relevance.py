"""What every retrieval measure is made of: where in its ranking of the gallery each query finds rows of its class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.retrieval.ranking import largest, places
from embedding_expansion.retrieval.search import Comparison, block_rows
from embedding_expansion.retrieval.task import Task, common_dtype

# Neighbours looked at also where a class has fewer: most queries have their first relevant row among them, and only for
# the others its place is counted.
LEAST_NEIGHBOURS = 8


@dataclass(frozen=True)
class Relevance:
    """The rankings of one block of queries.

    Attributes:
        queries: which queries these are.
        matches: how many gallery rows of its class each can find.
        relevant: whether its k nearest rows are of its class.
        first: the place, from 1, of the first that is; beyond any K where there is none.
        behind: the places of those that are not among the k nearest, ascending; 0, before them, stands for none. Empty
            where they were not asked for.
    """

    queries: Int[Tensor, " block"]
    matches: Int[Tensor, " block"]
    relevant: Bool[Tensor, "block k"]
    first: Int[Tensor, " block"]
    behind: Int[Tensor, "block m"]


@torch.no_grad()
def relevance(task: Task, neighbours: int, every_place: bool, chunk: int | None) -> Iterator[Relevance]:
    """Ranks the gallery for one block of queries after another, and yields what their measures are made of.

    Queries with more matches come first, and a block looks at as many neighbours as its queries have matches. So a few
    large classes do not make the other queries look as far, and neither does a large K of Recall@K.

    Args:
        task: who searches what.
        neighbours: how many are looked at in any case.
        every_place: whether the places of all relevant rows are asked for.
        chunk: queries of a block, None for as many as keep the memory bounded.
    """
    g, q, dtype = len(task.gallery), len(task.own), common_dtype(task)
    order = task.matches.sort(descending=True, stable=True).indices
    compare = Comparison(task.gallery, dtype, min(q, chunk or block_rows(g, 1, dtype)))
    members = _Members(task.gallery_classes)
    start = 0
    while start < q:
        k = min(g, max(LEAST_NEIGHBOURS, neighbours, int(task.matches[order[start]])))
        queries = order[start : start + (chunk or block_rows(g, k, dtype))]
        matches, own, classes = task.matches[queries], task.own[queries], task.query_classes[queries]
        table = compare(task.queries[queries].to(dtype), own)
        values, columns = largest(table, k)
        relevant = task.gallery_classes[columns.clamp(max=g - 1)] == classes.unsqueeze(1)
        relevant &= values > -torch.inf
        missing = matches > relevant.sum(1) if every_place else (matches > 0) & ~relevant.any(1)
        rows = missing.nonzero().squeeze(1)
        wanted = members.of(classes[rows]) if len(rows) > 0 else rows.new_empty(0, 0)
        wanted.masked_fill_(wanted == own[rows].unsqueeze(1), -1)
        wanted = _behind(table, rows, wanted, values[rows, -1:], columns[rows, -1:], every_place)
        behind = matches.new_zeros(len(queries), wanted.shape[1])
        if wanted.numel() > 0:
            behind[rows] = places(table, rows, wanted).sort(dim=1).values
        first = _first(relevant, behind)
        yield Relevance(queries, matches, relevant, first, behind if every_place else behind[:, :0])
        start += len(queries)


def _behind(
    table: Float[Tensor, "block w"],
    rows: Int[Tensor, " r"],
    wanted: Int[Tensor, "r m"],
    last: Float[Tensor, "r 1"],
    last_column: Int[Tensor, "r 1"],
    every: bool,
) -> Int[Tensor, "r m2"]:
    """Of the wanted columns those that come after the last neighbour, -1 for none: all of them, or the first only."""
    if wanted.numel() == 0:
        return wanted
    values = table[rows.unsqueeze(1), wanted.clamp(min=0)].masked_fill_(wanted < 0, -torch.inf)
    if not every:
        # None of these rows has a relevant neighbour. Of equal values argmax gives the first.
        return wanted.gather(1, values.argmax(1, keepdim=True))
    later = (values < last) | ((values == last) & (wanted > last_column))
    wanted = wanted.masked_fill(~later, -1).sort(dim=1, descending=True).values
    return wanted[:, : int((wanted >= 0).sum(1).max())]


def _first(relevant: Bool[Tensor, "block k"], behind: Int[Tensor, "block m"]) -> Int[Tensor, " block"]:
    """The place of the first relevant row, among the neighbours or else behind them."""
    beyond = torch.iinfo(torch.int64).max
    first = relevant.int().argmax(1) + 1
    first[~relevant.any(1)] = beyond
    if behind.shape[1] > 0:
        first = torch.minimum(first, behind.masked_fill(behind == 0, beyond).amin(1))
    return first


class _Members:
    """The gallery rows of each class."""

    def __init__(self, classes: Int[Tensor, " g"]) -> None:
        self._rows = classes.sort(stable=True).indices
        self._counts = torch.bincount(classes)
        self._starts = self._counts.cumsum(0) - self._counts

    def of(self, classes: Int[Tensor, " q"]) -> Int[Tensor, "q m"]:
        """The members of each of these classes in ascending order, -1 behind the last; each class has one."""
        counts = self._counts[classes].unsqueeze(1)
        place = torch.arange(int(counts.max()), device=classes.device).expand(len(classes), -1)
        rows = self._rows[(self._starts[classes].unsqueeze(1) + place).clamp_(max=len(self._rows) - 1)]
        return rows.masked_fill_(place >= counts, -1)
