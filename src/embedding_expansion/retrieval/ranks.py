"""Ranks in the rows of a table: the k largest entries, and the rank of given columns; ties go by column."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# The place of a row that is not there, or that was not asked for: beyond any K.
UNRANKED = torch.iinfo(torch.int64).max
# Widths of the runs of columns that are compared by their maximum first. The widest comes first.
BLOCKS = (64, 32, 16, 8)
# Up to so many columns of a row are placed by counting what comes before each, more by sorting the row.
COUNTED = 128
# Entries that are compared or sorted at a time.
FLAGS = 2**20


@dataclass(frozen=True)
class RelevantRanks:
    """The ranks at which one block of queries finds the rows of its classes.

    Attributes:
        queries: which queries these are.
        matches: how many gallery rows of its class each can find.
        ranks: from 1, ascending, at least one column; `UNRANKED` behind the last.
    """

    queries: Int[Tensor, " block"]
    matches: Int[Tensor, " block"]
    ranks: Int[Tensor, "block m"]


def largest(table: Float[Tensor, "q w"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Finds the k largest entries of each row, in descending order; of equal entries the smaller column comes first.

    `torch.topk` promises no order among equal entries, not even which of them it returns, and reads a wide row slowly.
    So a wide row is first cut into runs of neighbouring columns, and only the k runs with the largest maximum are
    looked into. That loses nothing, ties included: each of the k entries that come first lies in one of those runs,
    because a run that comes before another one, by its maximum and then by its place, holds an entry that comes
    before all of the other one's.

    Args:
        table: finite or -inf, without NaN.
        k: 1 to w.

    Returns:
        The entries and their columns.
    """
    block = _block(table.shape[1], k)
    if block == 1:
        return _largest_of_narrow(table, k)
    maxima = table.reshape(len(table), -1, block).amax(2)
    # Ascending, so that a smaller place among the candidates is a smaller column of the table.
    runs = _largest_of_narrow(maxima, k)[1].sort(dim=1).values
    columns = (runs.unsqueeze(2) * block + torch.arange(block, device=table.device)).flatten(1)
    values, positions = _largest_of_narrow(table.gather(1, columns), k)
    return values, columns.gather(1, positions)


def column_ranks(
    table: Float[Tensor, "q w"], rows: Int[Tensor, " r"], columns: Int[Tensor, "r m"]
) -> Int[Tensor, "r m"]:
    """Finds at which place, from 1, some columns stand in some rows; rows are sorted only where counting costs more.

    Args:
        table: finite or -inf, without NaN.
        rows: the rows of the table that are asked for.
        columns: of each of these rows, with finite entries; -1 stands for none and gets place 0.
    """
    found = torch.zeros_like(columns)
    (r, m), w = columns.shape, table.shape[1]
    if m > COUNTED:
        for part in torch.split(torch.arange(r, device=table.device), max(1, FLAGS // w)):
            order = table[rows[part]].sort(dim=1, descending=True, stable=True).indices
            place = torch.empty_like(order).scatter_(
                1, order, torch.arange(1, w + 1, device=table.device).expand_as(order)
            )
            found[part] = place.gather(1, columns[part].clamp(min=0)).masked_fill_(columns[part] < 0, 0)
        return found
    # Reused, and flags are floats, because fresh memory and sums of booleans are several times slower than comparing.
    # A sum of flags is exact up to 2^24 columns.
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
        # Of equal entries those in smaller columns come before.
        for row, place in ((equal > 1) & (wanted >= 0)).nonzero().tolist():
            before[row, place] += int(flags[row, place, : int(wanted[row, place])].sum())
        found[start : start + size] = (before + 1).masked_fill_(wanted < 0, 0)
    return found


def _block(width: int, k: int) -> int:
    """The run length that leaves the fewest entries to look at, 1 where cutting does not pay."""
    fitting = [block for block in BLOCKS if width % block == 0 and k <= width // block]
    best = min(fitting, key=lambda block: width // block + k * block, default=1)
    return best if 2 * (width // best + k * best) <= width else 1


def _largest_of_narrow(table: Float[Tensor, "q w"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    # One entry more than asked for tells whether the k-th place is tied with one that topk left out.
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
    """The columns above the k-th value, and as many of those equal to it as there is room for, the smaller first."""
    above, equal = table > last, table == last
    room = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(len(table), k)
