"""The ranks of relevant rows, by counting the rows that come before each; no ranking or list of neighbours is made.

The rows are sorted by class, so that the relevant rows of a block of queries lie in a few blocks of the gallery.
Leave-one-out computes every similarity once and counts it for both of its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.retrieval import native
from embedding_expansion.retrieval.inputs import UnitRows
from embedding_expansion.retrieval.native import MOST_RELEVANT
from embedding_expansion.retrieval.ranks import UNRANKED, RelevantRanks
from embedding_expansion.retrieval.tables import TableRows, Tables
from embedding_expansion.retrieval.task import RetrievalTask, common_dtype

# Rows of a block, and blocks of queries that are kept during one pass over the gallery.
BLOCK, HELD = 1024, 8
# An upper bound of every count.
MOST = 2**31 - 1
# Relevant rows that are read at a time.
PIECE = 8192
# If more than this share of at least this number of products must be computed again, as in a set whose rows are nearly
# all alike, ranking is faster.
MOST_SETTLED, ENOUGH = 1 / 16, 2**22
# Int8 products leave the most undecided at first, before any row is known to rank too low: they are judged later.
ENOUGH_OF_BYTES = 2**24


@dataclass(frozen=True)
class Limits:
    """Up to which rank relevant rows are counted; rows beyond it are `UNRANKED`.

    Attributes:
        first: the limit for the first relevant row, at least `others`.
        others: the limit for the other relevant rows, raised to the number of relevant rows of a query.
    """

    first: int = MOST
    others: int = MOST

    def of(self, levels: int) -> tuple[int, int]:
        """The limits (first, others) of a block whose queries have up to `levels` relevant rows."""
        others = max(self.others, levels)
        return min(MOST, max(self.first, others)), min(MOST, others)


@dataclass(frozen=True)
class _Block:
    """Some queries or gallery rows, sorted by class.

    Attributes:
        index: (m,), the indices of the rows.
        classes: (m,), their classes, numbered in this order.
        value: of queries, the similarities of their relevant rows in descending order, with infinity after the last.
        column: the gallery rows that these similarities belong to.
        before: how many rows of other classes come before each, counted up so far.
    """

    index: Int[Tensor, " m"]
    classes: Int[Tensor, " m"]
    value: Float[Tensor, "levels w"] | None = None
    column: Int[Tensor, "levels w"] | None = None
    before: Int[Tensor, "levels w"] | None = None

    @functools.cached_property
    def first(self) -> int:
        """The class of the first row."""
        return int(self.classes[0])

    @functools.cached_property
    def last(self) -> int:
        """The class of the last row."""
        return int(self.classes[-1])

    def overlaps(self, other: _Block) -> bool:
        """Whether both blocks may contain rows of the same class."""
        return self.first <= other.last and other.first <= self.last

    def as_native(self, rows: Float[Tensor, "m d"], limits: Limits) -> native.Rows:
        """The block as the kernel reads it; valid as long as the block and the rows exist."""
        levels, stride = (0, 0) if self.value is None else self.value.shape
        parts = {name: native.pointer(getattr(self, name)) for name in ("index", "value", "column", "before")}
        first, limit = limits.of(levels)
        return native.Rows(
            rows=rows.data_ptr(), count=len(rows), stride=stride, levels=levels, first_limit=first, limit=limit, **parts
        )


def countable(task: RetrievalTask) -> bool:
    """Whether counting is possible: the kernels run on this device, and products are not computed in bf16 or tf32."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    rounded = matmul is not None and matmul.fp32_precision in ("bf16", "tf32")
    return native.available(task.gallery.device) and not rounded


class Counting:
    """Counts the ranks of the relevant rows of one task.

    Args:
        task: which rows search which.
        chunk: queries compared at a time; None for `BLOCK`.
        limits: up to which rank to count.
    """

    def __init__(self, task: RetrievalTask, chunk: int | None, limits: Limits) -> None:
        self._task, self._limits, self._dtype = task, limits, common_dtype(task)
        self._done = torch.zeros(len(task.own), dtype=torch.bool)
        self._products = self._settled = 0
        size = min(BLOCK, chunk or BLOCK)
        sizes = torch.bincount(task.gallery_classes, minlength=len(task.labels))
        # Large classes first, so that the queries of a block have about the same number of relevant rows.
        ordered = sizes.sort(descending=True, stable=True)
        number = ordered.indices.argsort()
        order = number[task.gallery_classes].sort(stable=True).indices
        self._starts = (ordered.values.cumsum(0) - ordered.values)[number]
        self._order, self._number = order, number
        self._position = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        self._symmetric = size == BLOCK and _is_leave_one_out(task)
        asking = order if self._symmetric else self._number[task.query_classes].sort(stable=True).indices
        if not self._symmetric:
            asking = asking[task.matches[asking] <= MOST_RELEVANT]
        self._queries = [self._as_queries(part) for part in torch.split(asking, size) if len(part) > 0]
        self._gallery = (
            self._queries
            if self._symmetric
            else [_Block(part, number[task.gallery_classes[part]]) for part in torch.split(order, BLOCK)]
        )
        like = torch.empty(0, task.gallery.shape[1], dtype=self._dtype)
        self._tables = Tables(min(size, len(task.own)), min(BLOCK, len(order)), like)

    @torch.no_grad()
    def __call__(self) -> Iterator[RelevantRanks]:
        """Yields the ranks of the queries with at most `MOST_RELEVANT` relevant rows, a block at a time.

        It ends early if ranking is faster; `remaining` returns the queries without ranks.
        """
        for start in range(0, len(self._queries), HELD):
            held = range(start, min(start + HELD, len(self._queries)))
            self._compare(held)
            if self._ranking_is_faster():
                return
            if not self._symmetric:
                yield from self._ranks(held)
        if self._symmetric:
            yield from self._ranks(range(len(self._queries)))

    def remaining(self) -> Int[Tensor, " m"]:
        """The queries whose ranks were not yielded."""
        return (~self._done).nonzero().squeeze(1)

    @property
    def by_bytes(self) -> bool:
        """Whether the products are computed in int8."""
        return self._tables.by_bytes

    def _ranking_is_faster(self) -> bool:
        """Whether too many products must be computed again; the first time this happens to int8, floats are tried."""
        enough = ENOUGH_OF_BYTES if self.by_bytes else ENOUGH
        if self._products < enough or self._settled <= MOST_SETTLED * self._products:
            return False
        if not self.by_bytes:
            return True
        self._tables.by_bytes, self._products, self._settled = False, 0, 0
        return False

    def _compare(self, held: range) -> None:
        """Compares some blocks of queries with the gallery; in leave-one-out each pair of blocks only once."""
        rows = {i: self._read(self._task.queries, self._queries[i]) for i in held}
        for j in range(held[0] if self._symmetric else 0, len(self._gallery)):
            right, other = self._gallery[j], None
            for i in held:
                left = self._queries[i]
                wanted = left.value is not None or (self._symmetric and right.value is not None)
                if not wanted or (self._symmetric and j < i):
                    continue
                if other is None:
                    other = rows[j] if self._symmetric and j in rows else self._read(self._task.gallery, right)
                self._count(left, rows[i], right, other, both=self._symmetric and i != j)
                if self._ranking_is_faster():
                    return

    def _count(self, left: _Block, rows: TableRows, right: _Block, other: TableRows, both: bool) -> None:
        table, tolerance = self._tables.between(rows, other)
        if left.overlaps(right):
            # Rows of a query's class are ranked among themselves elsewhere; a query does not find itself.
            same = left.classes.unsqueeze(1) == right.classes
            table[:, : len(right.classes)].masked_fill_(same, -torch.inf)
        tile = native.Tile(
            left=left.as_native(rows.rows, self._limits),
            right=right.as_native(other.rows, self._limits),
            table=table.data_ptr(),
            stride=table.shape[1],
            d=rows.rows.shape[1],
            tolerance=tolerance,
            both=both,
        )
        native.call("count", tile, self._dtype)
        self._settled += tile.settled
        self._products += len(left.classes) * len(right.classes)

    def _read(self, rows: UnitRows, block: _Block) -> TableRows:
        return TableRows(rows[block.index].to(self._dtype).contiguous())

    def _as_queries(self, index: Int[Tensor, " m"]) -> _Block:
        task, (m, classes) = self._task, (len(index), self._task.query_classes[index])
        matches, own = task.matches[index], task.own[index]
        matches = matches.masked_fill(matches > MOST_RELEVANT, 0)
        levels, width = int(matches.max()), -(-m // native.STEP) * native.STEP
        numbers = self._number[classes]
        if levels == 0:
            return _Block(index, numbers)
        level = torch.arange(levels).unsqueeze(1)
        position = self._starts[classes] + level
        # Skip the query's own row.
        position += (own >= 0) & (position >= self._position[own])
        column = torch.full((levels, width), -1, dtype=torch.int32)
        value = torch.full((levels, width), -torch.inf, dtype=self._dtype)
        there = level < matches
        column[:, :m] = torch.where(there, self._order[position.clamp_(max=len(self._order) - 1)], -1)
        for part in torch.split(torch.arange(m), max(1, PIECE // levels)):
            value[:, part] = self._similarities(index[part], column[:, part])
        # The rows of a class are in ascending order, so a stable sort keeps equally similar rows in that order.
        value, order = value.sort(dim=0, descending=True, stable=True)
        column = column.gather(0, order)
        return _Block(index, numbers, value.masked_fill_(column < 0, torch.inf), column, torch.zeros_like(column))

    def _similarities(self, index: Int[Tensor, " p"], column: Int[Tensor, "levels p"]) -> Float[Tensor, "levels p"]:
        needed, position = torch.unique(column.clamp(min=0), return_inverse=True)
        position = torch.where(column >= 0, position, -1).int().contiguous()
        queries = self._task.queries[index].to(self._dtype).contiguous()
        gallery = self._task.gallery[needed].to(self._dtype).contiguous()
        value = torch.empty(position.shape, dtype=self._dtype)
        (levels, p), d = position.shape, queries.shape[1]
        sides, sizes = (queries.data_ptr(), gallery.data_ptr()), (p, p, d, levels)
        relevant = native.Relevant(*sides, *sizes, position.data_ptr(), value.data_ptr())
        native.call("similarities", relevant, self._dtype)
        return value

    def _ranks(self, which: range) -> Iterator[RelevantRanks]:
        for block in (self._queries[i] for i in which):
            matches = self._task.matches[block.index]
            counted = matches <= MOST_RELEVANT
            if not counted.any():
                continue
            index, matches = block.index[counted], matches[counted]
            self._done[index] = True
            if block.before is None:
                yield RelevantRanks(index, matches, torch.full((len(index), 1), UNRANKED))
                continue
            level = torch.arange(len(block.before))
            before = block.before.T[: len(counted)][counted]
            first, limit = self._limits.of(len(level))
            far = (level >= matches.unsqueeze(1)) | (before >= torch.where(level == 0, first, limit))
            yield RelevantRanks(index, matches, (before + (level + 1)).masked_fill_(far, UNRANKED))


def _is_leave_one_out(task: RetrievalTask) -> bool:
    return task.queries is task.gallery and torch.equal(task.own, torch.arange(len(task.gallery)))
