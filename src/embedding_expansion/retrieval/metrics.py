"""Retrieval measures: Recall@K of the papers, Precision@1, R-precision and MAP@R."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.inputs import (
    chosen_rows,
    class_indices,
    embedding_rows,
    positive_integer,
    positive_integers,
    unit_rows,
)
from embedding_expansion.retrieval.ranking import largest, place_of_first
from embedding_expansion.retrieval.search import Comparison, block_rows

# Neighbours looked at also where a class has fewer: most queries have their first relevant row among them, and only for
# the others its place is counted.
LEAST_NEIGHBOURS = 8

logger = logging.getLogger(__name__)


@validates
def retrieval_metrics(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    is_query: Tensor | np.ndarray | Sequence[bool] | None = None,
    is_gallery: Tensor | np.ndarray | Sequence[bool] | None = None,
    chunk: int | None = None,
) -> dict[str, float]:
    """Measures how well the nearest rows by cosine share the query's class.

    Each query ranks the gallery by descending cosine, equal ones by ascending row; a row never finds itself. With R the
    number of gallery rows of the query's class (itself not counted) and rel(i) whether the i-th neighbour is one:

    - `recall_at_K` is 1 if one of the K nearest is relevant, else 0 (the papers' hit at K).
    - `precision_at_1` is rel(1).
    - `r_precision` is (rel(1) + ... + rel(R)) / R.
    - `map_at_r` is (1/R) times the sum over i = 1..R of rel(i) (rel(1) + ... + rel(i)) / i.

    Each is the mean over queries, in 0..1. A query with R = 0, such as the only image of its class, counts as a miss in
    `recall_at_K`, as in the papers, and is left out of the other three, where R = 0 has no meaning. If there are such
    queries the log tells how many; without them `recall_at_1` equals `precision_at_1`.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm; normalised and compared in float32
            (float64 if they are), on their device. A row of zeros has cosine 0 with every other.
        labels: n whole numbers of up to 64 bits.
        ks: the K of Recall@K. K beyond the gallery asks for a hit anywhere in it.
        is_query: n booleans, the rows that search; None for all.
        is_gallery: n booleans, the rows that are searched; None for all. Both None is leave-one-out.
        chunk: queries compared at a time. By default as many, up to 1024, as keep the table of similarities within
            256 MiB.

    Returns:
        The means under the keys `recall_at_1` (one for each of `ks`), `precision_at_1`, `r_precision`, `map_at_r`.

    Raises:
        InvalidInput: lengths that do not fit, NaN or infinite entries, nothing to compare, K or chunk below 1, or no
            query that has a gallery row of its class.
        InvalidType: embeddings that are no floating-point matrix, labels that are no whole numbers, masks that are not
            boolean, a K or chunk that is no whole number.

    Example:
        >>> retrieval_metrics(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]]), [0, 0, 1, 1], ks=(1, 2))
        {'recall_at_1': 0.75, 'recall_at_2': 0.75, 'precision_at_1': 0.75, 'r_precision': 0.75, 'map_at_r': 0.75}

    Source: R-precision and MAP@R, K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020.
        Recall@K, H. Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016.
    Differs from the source: nothing differs; neither says how ties are broken.
    """
    ks = positive_integers(ks, "ks")
    limit = None if chunk is None else positive_integer(chunk, "chunk")
    rows = unit_rows(embedding_rows(embeddings))
    task = _task(class_indices(labels, len(rows)), is_query, is_gallery, rows.device)
    recall, ranked, count = torch.zeros(len(ks), dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for relevant, first, matches in _ranked(rows, task, limit):
        recall += torch.tensor([int((first <= k).sum()) for k in ks], dtype=torch.float64)
        some = matches > 0
        ranked += _precisions(relevant[some], matches[some])
        count += int(some.sum())
    result = {f"recall_at_{k}": float(value) / len(task.queries) for k, value in zip(ks, recall, strict=True)}
    names = ("precision_at_1", "r_precision", "map_at_r")
    return result | {name: float(value) / count for name, value in zip(names, ranked, strict=True)}


@dataclass(frozen=True)
class _Task:
    """Which rows search which, and how many matches each has; queries with more matches come first."""

    classes: Int[Tensor, " n"]
    gallery: Int[Tensor, " g"]
    queries: Int[Tensor, " q"]
    own: Int[Tensor, " q"]
    """The place of each query in the gallery, -1 if it is not there."""
    matches: Int[Tensor, " q"]


@validates
def _task(
    classes: Int[np.ndarray, " n"],
    is_query: Tensor | np.ndarray | Sequence[bool] | None,
    is_gallery: Tensor | np.ndarray | Sequence[bool] | None,
    device: torch.device,
) -> _Task:
    n = len(classes)
    queries, gallery = chosen_rows(is_query, "is_query", n), chosen_rows(is_gallery, "is_gallery", n)
    place = np.full(n, -1)
    place[gallery] = np.arange(len(gallery))
    own = place[queries]
    matches = np.bincount(classes[gallery], minlength=n)[classes[queries]] - (own >= 0)
    lone = int((matches == 0).sum())
    if lone == len(queries):
        raise InvalidInput(
            f"none of the {lone} queries has another row of its class in the gallery of {len(gallery)} rows, so there "
            "is nothing to find; check labels, is_query and is_gallery"
        )
    if lone > 0:
        logger.warning(
            "%d of %d queries have no other row of their class in the gallery: they count as misses in Recall@K and "
            "are left out of the other measures",
            lone,
            len(queries),
        )
    order = np.argsort(-matches, kind="stable")
    parts = (classes, gallery, queries[order], own[order], matches[order])
    return _Task(*(torch.from_numpy(part).to(device) for part in parts))


def _ranked(
    rows: Float[Tensor, "n d"], task: _Task, limit: int | None
) -> Iterator[tuple[Bool[Tensor, "block k"], Int[Tensor, " block"], Int[Tensor, " block"]]]:
    """Yields for one block of queries after another what their measures are made of.

    That is whether the nearest rows are relevant, the place of the first relevant one, and how many there are. A block
    looks at as many neighbours as its queries have matches: as those with more matches come first, a few large classes
    do not make the other queries look as far, and neither does a large K of Recall@K.
    """
    g, q = len(task.gallery), len(task.queries)
    gallery, gallery_classes = rows if g == len(rows) else rows[task.gallery], task.classes[task.gallery]
    compare = Comparison(gallery, rows.dtype, min(q, limit or block_rows(g, 1, rows.dtype)))
    members = _Members(gallery_classes)
    start = 0
    while start < q:
        k = min(g, max(LEAST_NEIGHBOURS, int(task.matches[start])))
        block = slice(start, start + (limit or block_rows(g, k, rows.dtype)))
        queries, matches = task.queries[block], task.matches[block]
        table = compare(rows[queries], task.own[block])
        values, columns = largest(table, k)
        relevant = gallery_classes[columns.clamp_(max=g - 1)] == task.classes[queries].unsqueeze(1)
        relevant &= values > -torch.inf
        yield relevant, _first_places(table, relevant, matches, members, task.classes[queries]), matches
        start += len(queries)


def _first_places(
    table: Float[Tensor, "block w"],
    relevant: Bool[Tensor, "block k"],
    matches: Int[Tensor, " block"],
    members: _Members,
    classes: Int[Tensor, " block"],
) -> Int[Tensor, " block"]:
    """The place, from 1, of each query's first relevant row; beyond any K where there is none."""
    first = relevant.int().argmax(1) + 1
    found = relevant.any(1)
    first[~found] = torch.iinfo(torch.int64).max
    counted = (~found & (matches > 0)).nonzero().squeeze(1)
    if len(counted) > 0:
        first[counted] = place_of_first(table, counted, members.of(classes[counted]))
    return first


class _Members:
    """The gallery rows of each class."""

    def __init__(self, classes: Int[Tensor, " g"]) -> None:
        self._rows = classes.sort(stable=True).indices
        self._counts = torch.bincount(classes)
        self._starts = self._counts.cumsum(0) - self._counts

    def of(self, classes: Int[Tensor, " q"]) -> Int[Tensor, "q m"]:
        """The members of each of these classes in ascending order, -1 behind the last."""
        counts = self._counts[classes].unsqueeze(1)
        place = torch.arange(int(counts.max()), device=classes.device).expand(len(classes), -1)
        rows = self._rows[(self._starts[classes].unsqueeze(1) + place).clamp_(max=len(self._rows) - 1)]
        return rows.masked_fill_(place >= counts, -1)


def _precisions(relevant: Bool[Tensor, "block k"], matches: Int[Tensor, " block"]) -> Float[Tensor, " 3"]:
    """The sums over queries of Precision@1, R-precision and the average precision at R."""
    place = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    counted = relevant & (place <= matches.unsqueeze(1))
    hits = counted.cumsum(1, dtype=torch.int32)
    r_precision = hits[:, -1].double() / matches
    average = (hits * counted).double().div_(place).sum(1) / matches
    return torch.stack([relevant[:, 0].double().sum(), r_precision.sum(), average.sum()]).cpu()
