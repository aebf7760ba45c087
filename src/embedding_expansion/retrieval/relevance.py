"""The ranks at which each query finds the rows of its class, by counting or by ranking the gallery."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.retrieval.counting import Counting, Limits, countable
from embedding_expansion.retrieval.ranks import UNRANKED, RelevantRanks, column_ranks, largest
from embedding_expansion.retrieval.search import Comparison, block_rows
from embedding_expansion.retrieval.task import RetrievalTask, common_dtype

# The fewest neighbours that are ranked. Most queries have their first relevant row among them; only for the others its
# rank is counted.
LEAST_NEIGHBOURS = 8


@torch.no_grad()
def relevance(
    task: RetrievalTask, neighbours: int, every_rank: bool, chunk: int | None, first_within: int = UNRANKED
) -> Iterator[RelevantRanks]:
    """Finds the ranks of the relevant rows, for one block of queries after another.

    With the native kernels, the rows that come before each relevant row are counted. Without them, for queries with
    many relevant rows, and if nearly all rows are alike, the gallery is ranked instead. It is ranked as far as a query
    has matches, and at least to the first relevant row, so that a large K of Recall@K costs nothing.

    Args:
        task: which rows search which.
        neighbours: the fewest neighbours whose relevance must be known.
        every_rank: whether the ranks of all relevant rows are needed.
        chunk: queries in a block; None for as many as keep the memory bounded.
        first_within: up to this rank, the rank of the first relevant row is needed.
    """
    queries = torch.arange(len(task.own), device=task.own.device)
    if countable(task):
        limits = Limits() if every_rank else Limits(first_within, neighbours)
        counting = Counting(task, chunk, limits)
        yield from counting()
        queries = counting.remaining()
    if len(queries) > 0:
        yield from _ranked(task, queries, neighbours, every_rank, chunk)


def _ranked(
    task: RetrievalTask, asking: Int[Tensor, " r"], neighbours: int, every_rank: bool, chunk: int | None
) -> Iterator[RelevantRanks]:
    """Ranks the gallery for some queries.

    Queries with more matches come first, and a block ranks as many neighbours as its queries have matches. A few large
    classes therefore do not slow down the other queries.
    """
    g, q, dtype = len(task.gallery), len(asking), common_dtype(task)
    order = asking[task.matches[asking].sort(descending=True, stable=True).indices]
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
        missing = matches > relevant.sum(1) if every_rank else (matches > 0) & ~relevant.any(1)
        rows = missing.nonzero().squeeze(1)
        wanted = members.of(classes[rows]) if len(rows) > 0 else rows.new_empty(0, 0)
        wanted.masked_fill_(wanted == own[rows].unsqueeze(1), -1)
        wanted = _behind(table, rows, wanted, values[rows, -1:], columns[rows, -1:], every_rank)
        behind = matches.new_full((len(queries), wanted.shape[1]), UNRANKED)
        if wanted.numel() > 0:
            behind[rows] = column_ranks(table, rows, wanted)
        yield RelevantRanks(queries, matches, _joined(relevant, behind.masked_fill_(behind == 0, UNRANKED)))
        start += len(queries)


def _behind(
    table: Float[Tensor, "block w"],
    rows: Int[Tensor, " r"],
    wanted: Int[Tensor, "r m"],
    last: Float[Tensor, "r 1"],
    last_column: Int[Tensor, "r 1"],
    every: bool,
) -> Int[Tensor, "r m2"]:
    """The wanted columns that come after the last neighbour, all of them or only the first; -1 for none."""
    if wanted.numel() == 0:
        return wanted
    values = table[rows.unsqueeze(1), wanted.clamp(min=0)].masked_fill_(wanted < 0, -torch.inf)
    if not every:
        # None of these rows has a relevant neighbour. Of equal values argmax returns the first.
        return wanted.gather(1, values.argmax(1, keepdim=True))
    later = (values < last) | ((values == last) & (wanted > last_column))
    wanted = wanted.masked_fill(~later, -1).sort(dim=1, descending=True).values
    return wanted[:, : int((wanted >= 0).sum(1).max())]


def _joined(relevant: Bool[Tensor, "block k"], behind: Int[Tensor, "block m"]) -> Int[Tensor, "block m2"]:
    """The ranks of the relevant rows among the neighbours and after them, in ascending order."""
    hits = relevant.cumsum(1)
    most = max(1, int(hits[:, -1].max()))
    # The j-th relevant neighbour goes to column j; the others go to a last column that is dropped.
    number = torch.where(relevant, hits - 1, most)
    rank = torch.arange(1, relevant.shape[1] + 1, device=relevant.device).expand_as(number)
    near = hits.new_full((len(hits), most + 1), UNRANKED).scatter_(1, number, rank)[:, :most]
    return near if behind.shape[1] == 0 else torch.cat([near, behind], dim=1).sort(dim=1).values


class _Members:
    """The gallery rows of each class."""

    def __init__(self, classes: Int[Tensor, " g"]) -> None:
        self._rows = classes.sort(stable=True).indices
        self._counts = torch.bincount(classes)
        self._starts = self._counts.cumsum(0) - self._counts

    def of(self, classes: Int[Tensor, " q"]) -> Int[Tensor, "q m"]:
        """The rows of each of these classes in ascending order, with -1 after the last; no class may be empty."""
        counts = self._counts[classes].unsqueeze(1)
        member = torch.arange(int(counts.max()), device=classes.device).expand(len(classes), -1)
        rows = self._rows[(self._starts[classes].unsqueeze(1) + member).clamp_(max=len(self._rows) - 1)]
        return rows.masked_fill_(member >= counts, -1)
