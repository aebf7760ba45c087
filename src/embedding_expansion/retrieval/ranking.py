"""Ranks in the rows of a table: entries in descending order, equal ones by the smaller column."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Widths of the runs of columns that are compared by their maximum first. The widest comes first.
BLOCKS = (64, 32, 16, 8)
# Rows that are copied and compared at a time.
PIECE = 16


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
    values, places = _largest_of_narrow(table.gather(1, columns), k)
    return values, columns.gather(1, places)


def place_of_first(
    table: Float[Tensor, "q w"], rows: Int[Tensor, " r"], wanted: Int[Tensor, "r m"]
) -> Int[Tensor, " r"]:
    """Finds at which place, from 1, the first of the wanted columns stands in some rows, without sorting them.

    Args:
        table: finite or -inf, without NaN.
        rows: the rows of the table that are asked for.
        wanted: columns in ascending order, -1 behind the last of a row; each row has one with a finite entry.
    """
    places = torch.empty_like(rows)
    # Reused, and flags are floats, because fresh memory and sums of booleans are several times slower than comparing.
    # A sum of flags is exact up to 2^24 columns.
    copies, flags = table.new_empty(2, min(PIECE, len(rows)), table.shape[1])
    for start in range(0, len(rows), PIECE):
        part = slice(start, start + PIECE)
        r = len(rows[part])
        entries = torch.index_select(table, 0, rows[part], out=copies[:r])
        values = entries.gather(1, wanted[part].clamp(min=0)).masked_fill_(wanted[part] < 0, -torch.inf)
        best = values.amax(1, keepdim=True)
        before = torch.gt(entries, best, out=flags[:r]).sum(1).long()
        equal = torch.eq(entries, best, out=flags[:r])
        # Of equal entries those in smaller columns come before; the first wanted one is the one that counts.
        for row in (equal.sum(1) > 1).nonzero().squeeze(1).tolist():
            column = int(wanted[part][row][values[row] == best[row]][0])
            before[row] += int(equal[row, :column].sum())
        places[part] = before + 1
    return places


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
