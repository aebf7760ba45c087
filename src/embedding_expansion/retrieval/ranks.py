"""Ranks in the rows of a table: the k largest entries, and the rank of given columns; ties go by column."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# The rank of a row that does not exist or was not asked for: beyond any K.
UNRANKED = torch.iinfo(torch.int64).max
# Lengths of the runs of columns that `largest` first compares by their maximum, in descending order.
BLOCKS = (64, 32, 16, 8)
# `column_ranks` counts what comes before each column for up to this number of columns, and sorts the row for more.
COUNTED = 128
# How many entries are compared or sorted at a time.
FLAGS = 2**20


@dataclass(frozen=True)
class RelevantRanks:
    """The ranks at which one block of queries finds the rows of its classes.

    Attributes:
        queries: (b,), the indices of the queries.
        matches: (b,), how many gallery rows of its class each query can find.
        ranks: (b, m), from 1, ascending, with `UNRANKED` after the last; m is at least 1.
    """

    queries: Int[Tensor, " block"]
    matches: Int[Tensor, " block"]
    ranks: Int[Tensor, "block m"]


def largest(table: Float[Tensor, "q w"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Finds the k largest entries of each row, in descending order; of equal entries the smaller column comes first.

    `torch.topk` does not define which of equal entries it returns, nor their order, and is slow on wide rows.
    Therefore a wide row is first divided into runs of neighbouring columns, and only the k runs with the largest
    maximum are searched. The result is exact, ties included. If a run comes before another one, by its maximum and then
    by its position, it holds an entry that comes before all entries of the other run; so the first k entries lie in the
    first k runs.

    Args:
        table: finite or -inf, without NaN.
        k: 1 to w.

    Returns:
        The entries and their columns, both of shape (q, k).
    """
    block = _block(table.shape[1], k)
    if block == 1:
        return _largest_of_narrow(table, k)
    maxima = table.reshape(len(table), -1, block).amax(2)
    # Ascending, so that a smaller position among the candidates is a smaller column of the table.
    runs = _largest_of_narrow(maxima, k)[1].sort(dim=1).values
    columns = (runs.unsqueeze(2) * block + torch.arange(block, device=table.device)).flatten(1)
    values, positions = _largest_of_narrow(table.gather(1, columns), k)
    return values, columns.gather(1, positions)


def column_ranks(
    table: Float[Tensor, "q w"], rows: Int[Tensor, " r"], columns: Int[Tensor, "r m"]
) -> Int[Tensor, "r m"]:
    """Finds the rank, from 1, of given columns in given rows of a table; ties go by column.

    Args:
        table: finite or -inf, without NaN.
        rows: (r,), indices of rows of the table.
        columns: (r, m), columns of each of these rows whose entries are finite; -1 for none.

    Returns:
        (r, m), the ranks; 0 where `columns` is -1.
    """
    found = torch.zeros_like(columns)
    (r, m), w = columns.shape, table.shape[1]
    if m > COUNTED:
        for part in torch.split(torch.arange(r, device=table.device), max(1, FLAGS // w)):
            order = table[rows[part]].sort(dim=1, descending=True, stable=True).indices
            rank = torch.empty_like(order).scatter_(
                1, order, torch.arange(1, w + 1, device=table.device).expand_as(order)
            )
            found[part] = rank.gather(1, columns[part].clamp(min=0)).masked_fill_(columns[part] < 0, 0)
        return found
    # The buffers are reused, and flags are floats: new memory and sums of booleans take several times as long as the
    # comparison. A sum of flags is exact up to 2^24 columns.
    size = min(r, max(1, FLAGS // (m * w)))
    copies, flags = table.new_empty(size, w), table.new_empty(size, m, w)
    for start in range(0, r, size):
        wanted = columns[start : start + size]
        n = len(wanted)
        entries = torch.index_select(table, 0, rows[start : start + size], out=copies[:n])
        values = entries.gather(1, wanted.clamp(min=0))
        pair = entries.unsqueeze(1), values.unsqueeze(2)
        before = torch.gt(*pair, out=flags[:n]).sum(2).long()
        equal = torch.eq(*pair, out=flags[:n]).sum(2)
        # Of equal entries, those in smaller columns come first.
        for row, position in ((equal > 1) & (wanted >= 0)).nonzero().tolist():
            before[row, position] += int(flags[row, position, : int(wanted[row, position])].sum())
        found[start : start + size] = (before + 1).masked_fill_(wanted < 0, 0)
    return found


def _block(width: int, k: int) -> int:
    """The run length with the fewest entries to compare; 1 if dividing the row does not pay."""
    fitting = [block for block in BLOCKS if width % block == 0 and k <= width // block]
    best = min(fitting, key=lambda block: width // block + k * block, default=1)
    return best if 2 * (width // best + k * best) <= width else 1


def _largest_of_narrow(table: Float[Tensor, "q w"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    # One more entry shows whether the k-th entry is tied with one that topk left out.
    values, columns = table.topk(min(k + 1, table.shape[1]), dim=1)
    cut = (values[:, k - 1 : k] == values[:, k:]).any(1).nonzero().squeeze(1)
    values, columns = values[:, :k], columns[:, :k].contiguous()
    if len(cut) > 0:
        columns[cut] = _first_of_tied(table[cut], values[cut, -1:], k)
    elif not bool((values[:, 1:] == values[:, :-1]).any()):
        return values, columns
    columns = columns.sort(dim=1).values
    values, order = table.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _first_of_tied(table: Float[Tensor, "q w"], last: Float[Tensor, "q 1"], k: int) -> Int[Tensor, "q k"]:
    """The columns of the entries above the k-th value, filled up to k with the first columns of entries equal to it."""
    above, equal = table > last, table == last
    room = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(len(table), k)
