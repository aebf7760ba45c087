"""Exact nearest neighbours: a matrix product per block of queries, then the k largest entries of each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_limit, as_whole
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import as_array
from embedding_expansion.retrieval.inputs import UnitRows, arithmetic_dtype, embedding_rows, unit_rows
from embedding_expansion.retrieval.ranks import BLOCKS, largest

# Gallery rows that are multiplied, converted or hashed at a time.
PIECE = 8192
# The most bytes of the table of similarities, and the most entries of the lists of neighbours of a block.
TABLE_BYTES = 2**28
LIST_ENTRIES = 2**22


@validates
def nearest(
    queries: Tensor | np.ndarray,
    gallery: Tensor | np.ndarray,
    k: int,
    *,
    exclude: Tensor | np.ndarray | Sequence[int] | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Finds for each query the k gallery rows with the largest inner product, exactly.

    Neighbours are ordered by descending similarity, and equally similar ones by gallery index; ties at the k-th
    neighbour are resolved the same way. Equal gallery rows are always equally similar. The rows are not normalised: for
    the cosine, normalise them first. Products are computed in float32 (float64 if either matrix is float64) with
    autocast off, whatever type the rows have; `torch.set_float32_matmul_precision` sets the precision of float32.

    Args:
        queries: (q, d), a floating-point tensor or NumPy array.
        gallery: (g, d), on the same device.
        k: the number of neighbours. A query with fewer candidates gets index -1 and similarity -inf for the rest.
        exclude: (q,), for each query the gallery row that it must not find, -1 for none. Leave-one-out within one set
            is `nearest(x, x, k, exclude=range(len(x)))`.
        chunk: queries compared at a time. The default is at most 1024, and keeps the table of similarities within
            256 MiB.

    Returns:
        Similarities (q, k), float32 or float64, and gallery indices (q, k), int64, on the device of the queries.

    Raises:
        InvalidInput: an empty or non-finite matrix, queries and gallery that cannot be compared, k or chunk below 1, or
            an index in `exclude` outside the gallery.
        InvalidType: embeddings that are not a floating-point matrix, or a k or chunk that is not a whole number.

    Example:
        >>> similarities, indices = nearest(np.eye(3), np.eye(3), k=2, exclude=[0, 1, -1])
        >>> indices.tolist()
        [[1, 2], [0, 2], [2, 0]]
    """
    query_rows, gallery_rows = embedding_rows(queries, "queries"), embedding_rows(gallery, "gallery")
    check_comparable(query_rows, gallery_rows)
    k, (q, g) = as_whole(k, "k", least=1), (len(query_rows), len(gallery_rows))
    excluded = excluded_rows(exclude, q, g).to(query_rows.device)
    dtype = arithmetic_dtype(query_rows.dtype, gallery_rows.dtype)
    size = as_limit(chunk, "chunk") or block_rows(g, k, dtype)
    compare = Comparison(gallery_rows, dtype, min(size, q))
    similarities = query_rows.new_full((q, k), -torch.inf, dtype=dtype)
    indices = torch.full((q, k), -1, device=query_rows.device)
    for start in range(0, q, size):
        block = slice(start, start + size)
        found, columns = largest(compare(query_rows[block], excluded[block]), min(k, g))
        similarities[block, : found.shape[1]] = found
        indices[block, : found.shape[1]] = columns.masked_fill_(found == -torch.inf, -1)
    return similarities, indices


def block_rows(g: int, k: int, dtype: torch.dtype) -> int:
    """How many queries to compare at a time with g gallery rows, so that the table and the lists stay small."""
    return max(1, min(1024, TABLE_BYTES // (g * dtype.itemsize), LIST_ENTRIES // min(k, g)))


class Comparison:
    """Compares blocks of queries with one gallery, in a table of similarities that is reused.

    Args:
        gallery: the rows to search in.
        dtype: in which similarities are computed.
        block: the largest number of queries in a call.
    """

    def __init__(self, gallery: Float[Tensor, "g d"] | UnitRows, dtype: torch.dtype, block: int) -> None:
        self._gallery = gallery
        self._copies = _repeated_rows(gallery)
        # The columns beyond the gallery stay at -inf. They make the width a multiple of every run length of `largest`,
        # and the product about 10% faster.
        width = -(-len(gallery) // BLOCKS[0]) * BLOCKS[0]
        self._table = torch.full((block, width), -torch.inf, dtype=dtype, device=gallery.device)

    @torch.no_grad()
    def __call__(self, queries: Float[Tensor, "q d"], exclude: Int[Tensor, " q"]) -> Float[Tensor, "q w"]:
        """Computes the similarities of queries and gallery, valid until the next call.

        Args:
            queries: at most `block` rows.
            exclude: the gallery row that each query must not find, -1 for none; its similarity becomes -inf.
        """
        table = self._table[: len(queries)]
        self._fill(table, queries)
        alone = (exclude >= 0).nonzero().squeeze(1)
        table[alone, exclude[alone]] = -torch.inf
        return table

    def _fill(self, table: Float[Tensor, "q w"], queries: Float[Tensor, "q d"]) -> None:
        queries = queries.to(table.dtype)
        with torch.autocast(table.device.type, enabled=False):
            for start in range(0, len(self._gallery), PIECE):
                rows = self._gallery[start : start + PIECE].to(table.dtype)
                torch.mm(queries, rows.T, out=table[:, start : start + len(rows)])
        # A matrix product rounds differently at its edges, so the similarities of equal gallery rows may differ in the
        # last bit and would not tie: all copies of a row take the similarity of the first.
        for copies, originals in zip(*(torch.split(part, PIECE) for part in self._copies), strict=True):
            table[:, copies] = table[:, originals]


def _repeated_rows(rows: Float[Tensor, "g d"] | UnitRows) -> tuple[Int[Tensor, " copies"], Int[Tensor, " copies"]]:
    """The rows that are equal to an earlier row, and the first row that each of them equals."""
    # Rows are hashed in integer arithmetic, which is exact in any order of summation, unlike a float checksum.
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.dtype.itemsize]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**63), 2**63 - 1, (rows.shape[1],), generator=generator).to(rows.device)
    # Adding 0 turns -0 into 0.
    read = (rows[start : start + PIECE] for start in range(0, len(rows), PIECE))
    pieces = [((piece.contiguous() + 0.0).view(bits) * weights).sum(1) for piece in read]
    hashes, group = torch.unique(torch.cat(pieces), return_inverse=True)
    indices = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(hashes, len(rows)).scatter_reduce_(0, group, indices, "amin")[group]
    copies = (first != indices).nonzero().squeeze(1)
    equal = [(rows[part] == rows[first[part]]).all(1) for part in torch.split(copies, PIECE)]
    copies = copies[torch.cat(equal)]
    return copies, first[copies]


def check_comparable(queries: Float[Tensor, "q d"], gallery: Tensor) -> None:
    """Checks that queries and gallery have the same columns and device, and that no inner product overflows."""
    if queries.shape[1] != gallery.shape[1]:
        raise InvalidInput(
            f"queries has {queries.shape[1]} columns but gallery has {gallery.shape[1]}; embed both with the same model"
        )
    if queries.device != gallery.device:
        raise InvalidInput(f"queries is on {queries.device} but gallery on {gallery.device}; move both to one device")
    peaks = [float(torch.linalg.vector_norm(rows, torch.inf)) for rows in (queries, gallery)]
    dtype = arithmetic_dtype(queries.dtype, gallery.dtype)
    if peaks[0] * peaks[1] * queries.shape[1] > torch.finfo(dtype).max:
        raise InvalidInput(
            f"the inner products of queries (entries up to {peaks[0]:.1g}) and gallery (up to {peaks[1]:.1g}) overflow "
            f"{dtype}; normalise the rows first"
        )


@validates
def excluded_rows(exclude: Tensor | np.ndarray | Sequence[int] | None, q: int, g: int) -> Int[Tensor, " q"]:
    """Checks `exclude`: the gallery row that each query must not find, -1 for none; None excludes nothing."""
    if exclude is None:
        return torch.full((q,), -1)
    rows = as_array(exclude, "exclude")
    if rows.ndim != 1 or len(rows) != q or rows.dtype.kind not in "iu":
        raise InvalidInput(
            f"exclude has the type {rows.dtype} and the shape {rows.shape} for {q} queries; pass one gallery index per "
            "query, -1 for none"
        )
    if int(rows.min()) < -1 or int(rows.max()) >= g:
        raise InvalidInput(
            f"exclude has indices from {int(rows.min())} to {int(rows.max())}, but gallery has {g} rows; pass 0 to "
            f"{g - 1}, or -1 for none"
        )
    return torch.from_numpy(rows.astype(np.int64))


@validates
def unit_queries_and_gallery(
    queries: Tensor | np.ndarray, gallery: Tensor | np.ndarray
) -> tuple[Float[Tensor, "q d"], Float[Tensor, "g d"]]:
    """Checks queries and gallery, and L2-normalises both in one type, float32 or float64."""
    query_rows = unit_rows(embedding_rows(queries, "queries"))
    gallery_rows = unit_rows(embedding_rows(gallery, "gallery"))
    dtype = arithmetic_dtype(query_rows.dtype, gallery_rows.dtype)
    return query_rows.to(dtype), gallery_rows.to(dtype)
