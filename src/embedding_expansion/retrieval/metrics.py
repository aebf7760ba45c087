"""Retrieval measures as means, per query or per class: Recall@K, Precision@K, R-precision, MAP@R, MRR, MAP, nDCG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_limit, check_name
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidType
from embedding_expansion.retrieval.inputs import cutoffs
from embedding_expansion.retrieval.ranks import UNRANKED, RelevantRanks
from embedding_expansion.retrieval.relevance import relevance
from embedding_expansion.retrieval.task import RetrievalTask, SearchSides, refuse_nothing_to_find, retrieval_task

MORE = ("mrr", "map", "ndcg")
# These two need the rank of every relevant row.
FULL = ("map", "ndcg")


@validates
def retrieval_metrics(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    precision_at: Sequence[int] = (),
    more: Sequence[str] = (),
    is_query: Tensor | np.ndarray | Sequence[bool] | None = None,
    is_gallery: Tensor | np.ndarray | Sequence[bool] | None = None,
    gallery: Tensor | np.ndarray | None = None,
    gallery_labels: Tensor | np.ndarray | Sequence[int] | None = None,
    chunk: int | None = None,
) -> dict[str, float]:
    """Measures how well the nearest rows by cosine share the class of the query.

    For each query the gallery is ranked by descending cosine, ties by ascending row; a row never finds itself. Let R be
    the number of gallery rows of the query's class (the query itself not counted), and rel(i) 1 if the i-th neighbour
    is one of them, otherwise 0:

    - `recall_at_K` is 1 if one of the K nearest is relevant, otherwise 0 (called hit at K elsewhere).
    - `precision_at_1` is rel(1), `precision_at_K` is (rel(1) + ... + rel(K)) / K.
    - `r_precision` is (rel(1) + ... + rel(R)) / R.
    - `map_at_r` is (1/R) times the sum over i = 1..R of rel(i) (rel(1) + ... + rel(i)) / i.
    - `mrr` is 1 / i for the smallest i with rel(i) = 1.
    - `map` is `map_at_r` with the sum taken over the whole gallery.
    - `ndcg` is the sum over the whole gallery of rel(i) / log2(i + 1), divided by its value for an ideal ranking.

    Each measure is the mean over queries, from 0 to 1. A query with R = 0, such as the only image of its class, counts
    as a miss in `recall_at_K`, as in the papers. The other measures are not defined for R = 0 and leave the query out.
    A warning is logged if there are such queries; without them `recall_at_1` equals `precision_at_1`.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm; normalised and compared in float32
            (float64 if they are float64), on their device. A row of zeros has cosine 0 with every other row. Half
            precision is converted a piece at a time.
        labels: n whole numbers of up to 64 bits.
        ks: the K of Recall@K. A K beyond the size of the gallery asks for a hit anywhere in it.
        precision_at: the K of Precision@K, in addition to Precision@1. Ranks beyond the gallery are misses.
        more: any of `mrr`, `map` and `ndcg`. The last two need the rank of every relevant row and take longer.
        is_query: n booleans, the rows to use as queries; None for all.
        is_gallery: n booleans, the rows to search in; None for all. If both masks are None, this is leave-one-out.
        gallery: (g, d), rows to search in instead of `embeddings`, on the same device.
        gallery_labels: g whole numbers, the labels of `gallery`.
        chunk: queries compared at a time. The default is at most 1024, and keeps the table of similarities within
            256 MiB.

    Returns:
        The means under the keys `recall_at_1` (one for each of `ks`), `precision_at_1` (and one for each of
        `precision_at`), `r_precision`, `map_at_r`, and the measures of `more`.

    Raises:
        InvalidInput: lengths that do not fit, NaN or infinite entries, nothing to compare, K or chunk below 1, an
            unknown measure, or no query that has a gallery row of its class.
        InvalidType: embeddings that are not a floating-point matrix, labels that are not whole numbers, masks that are
            not boolean, or a K or chunk that is not a whole number.

    Example:
        >>> retrieval_metrics(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]]), [0, 0, 1, 1], ks=(1, 2))
        {'recall_at_1': 0.75, 'recall_at_2': 0.75, 'precision_at_1': 0.75, 'r_precision': 0.75, 'map_at_r': 0.75}

    Source: R-precision and MAP@R, K. Musgrave, S. Belongie, S.-N. Lim, "A Metric Learning Reality Check", ECCV 2020.
        Recall@K, H. Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016.
        MRR, MAP and nDCG (gain 0 or 1), C. D. Manning, P. Raghavan, H. Schütze, "Introduction to Information
        Retrieval", 2008, chapter 8.
    Differs from the source: ties are broken by row; the sources do not say how.
    """
    values = retrieval_values(
        embeddings,
        labels,
        ks,
        precision_at=precision_at,
        more=more,
        is_query=is_query,
        is_gallery=is_gallery,
        gallery=gallery,
        gallery_labels=gallery_labels,
        chunk=chunk,
    )
    return {name: float(column[~np.isnan(column)].mean()) for name, column in values.items()}


@validates
def retrieval_values(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    precision_at: Sequence[int] = (),
    more: Sequence[str] = (),
    chunk: int | None = None,
    **sides: Unpack[SearchSides],
) -> dict[str, Float[np.ndarray, " q"]]:
    """Computes the measures of `retrieval_metrics` for each query, with the same arguments and keys.

    Args:
        embeddings: as in `retrieval_metrics`.
        labels: as in `retrieval_metrics`.
        ks: as in `retrieval_metrics`.
        precision_at: as in `retrieval_metrics`.
        more: as in `retrieval_metrics`.
        chunk: as in `retrieval_metrics`.
        sides: `is_query`, `is_gallery`, `gallery` and `gallery_labels` of `retrieval_metrics`.

    Returns:
        For each measure a float64 array of shape (q,), in the order of the rows. For a query without a row of its class
        to find, Recall@K is 0 and the other measures are NaN.

    Raises:
        InvalidInput: as in `retrieval_metrics`.
        InvalidType: as in `retrieval_metrics`.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]])
        >>> retrieval_values(rows, [0, 0, 1, 1], ks=(1,), more=["mrr"])["mrr"].round(2).tolist()
        [1.0, 1.0, 1.0, 0.33]
    """
    wanted = _Wanted.of(ks, precision_at, more)
    limit = as_limit(chunk, "chunk")
    return _values(retrieval_task(embeddings, labels, **sides), wanted, limit)


@dataclass(frozen=True)
class ByClass:
    """The measures of each class of queries.

    Attributes:
        labels: (c,), the labels of the queries, in ascending order.
        queries: (c,), the number of queries of each class.
        measures: for each measure an array of shape (c,), the mean over the queries of the class that have a row to
            find; NaN if there are none.
    """

    labels: Int[np.ndarray, " c"]
    queries: Int[np.ndarray, " c"]
    measures: dict[str, Float[np.ndarray, " c"]]


@validates
def retrieval_by_class(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    precision_at: Sequence[int] = (),
    more: Sequence[str] = (),
    chunk: int | None = None,
    **sides: Unpack[SearchSides],
) -> ByClass:
    """Computes the measures of `retrieval_metrics` for each class of queries, with the same arguments and keys.

    Args:
        embeddings: as in `retrieval_metrics`.
        labels: as in `retrieval_metrics`.
        ks: as in `retrieval_metrics`.
        precision_at: as in `retrieval_metrics`.
        more: as in `retrieval_metrics`.
        chunk: as in `retrieval_metrics`.
        sides: `is_query`, `is_gallery`, `gallery` and `gallery_labels` of `retrieval_metrics`.

    Raises:
        InvalidInput: as in `retrieval_metrics`.
        InvalidType: as in `retrieval_metrics`.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.6, 0.4]])
        >>> found = retrieval_by_class(rows, [7, 7, 8, 8], ks=(1,))
        >>> found.labels.tolist(), found.queries.tolist(), found.measures["recall_at_1"].tolist()
        ([7, 8], [2, 2], [1.0, 0.5])
    """
    wanted = _Wanted.of(ks, precision_at, more)
    limit = as_limit(chunk, "chunk")
    task = retrieval_task(embeddings, labels, **sides)
    searched, classes, queries = np.unique(task.query_classes.cpu().numpy(), return_inverse=True, return_counts=True)
    means = {}
    for name, values in _values(task, wanted, limit).items():
        counted = ~np.isnan(values)
        count = np.bincount(classes[counted], minlength=len(searched))
        total = np.bincount(classes[counted], values[counted], minlength=len(searched))
        means[name] = np.divide(total, count, out=np.full(len(searched), np.nan), where=count > 0)
    return ByClass(task.labels[searched], queries, means)


@dataclass(frozen=True)
class _Wanted:
    """The measures to compute."""

    ks: tuple[int, ...]
    precision_at: tuple[int, ...]
    more: tuple[str, ...]

    @classmethod
    @validates
    def of(cls, ks: Iterable[int], precision_at: Iterable[int], more: Iterable[str]) -> _Wanted:
        if isinstance(more, str) or not isinstance(more, Iterable):
            raise InvalidType(f"more is {more!r}; pass several names, such as ('mrr', 'map')")
        names = tuple(more)
        for name in names:
            check_name("measure", name, MORE)
        precisions = tuple(dict.fromkeys((1, *cutoffs(precision_at, "precision_at"))))
        return cls(cutoffs(ks, "ks"), precisions, tuple(name for name in MORE if name in names))

    @property
    def names(self) -> list[str]:
        hits = [f"recall_at_{k}" for k in self.ks] + [f"precision_at_{k}" for k in self.precision_at]
        return [*hits, "r_precision", "map_at_r", *self.more]


def _values(task: RetrievalTask, wanted: _Wanted, chunk: int | None) -> dict[str, Float[np.ndarray, " q"]]:
    refuse_nothing_to_find(task)
    values = torch.empty(len(wanted.names), len(task.own), dtype=torch.float64)
    full = any(name in FULL for name in wanted.more)
    first_within = UNRANKED if "mrr" in wanted.more else max(wanted.ks, default=1)
    for block in relevance(task, max(wanted.precision_at), full, chunk, first_within):
        columns = [*_recalls(block, wanted.ks), *_counted(block, wanted)]
        values[:, block.queries.cpu()] = torch.stack(columns).cpu()
    return dict(zip(wanted.names, values.numpy(), strict=True))


def _recalls(block: RelevantRanks, ks: tuple[int, ...]) -> list[Float[Tensor, " block"]]:
    return [(block.ranks[:, 0] <= k).double() for k in ks]


def _counted(block: RelevantRanks, wanted: _Wanted) -> list[Float[Tensor, " block"]]:
    """The measures that are not defined for a query without matches, which gets NaN (0 / 0)."""
    matches, ranks = block.matches.double(), block.ranks.double()
    some = torch.where(block.matches > 0, 1.0, torch.nan).double()
    known, within = block.ranks < UNRANKED, block.ranks <= block.matches.unsqueeze(1)
    # P(i) at the ranks i of the relevant rows; at the k-th of them it is k / i.
    precision = torch.arange(1, ranks.shape[1] + 1, device=ranks.device) / ranks
    values = [(block.ranks <= k).sum(1).double() / k * some for k in wanted.precision_at]
    values += [within.sum(1) / matches, (precision * within).sum(1) / matches]
    more = {
        "mrr": lambda: some / ranks[:, 0],
        "map": lambda: (precision * known).sum(1) / matches,
        "ndcg": lambda: (known / (ranks + 1).log2()).sum(1) / _ideal_gain(block.matches),
    }
    return values + [more[name]() for name in wanted.more]


def _ideal_gain(matches: Int[Tensor, " block"]) -> Float[Tensor, " block"]:
    gains = 1 / torch.arange(2, int(matches.max()) + 2, device=matches.device).double().log2()
    return torch.cat([gains.new_zeros(1), gains.cumsum(0)])[matches]
