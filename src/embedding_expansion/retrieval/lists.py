"""Retrieval measures for given lists, such as those of re-ranking."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import as_array
from embedding_expansion.retrieval.inputs import cutoffs, whole_numbers

# Entries of the lists that are read at a time.
ENTRIES = 2**22

logger = logging.getLogger(__name__)


@validates
def list_metrics(
    lists: Tensor | np.ndarray,
    query_labels: Tensor | np.ndarray | Sequence[int],
    gallery_labels: Tensor | np.ndarray | Sequence[int] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    *,
    exclude: Tensor | np.ndarray | Sequence[int] | None = None,
) -> dict[str, float]:
    """Computes the measures of `retrieval_metrics` for given lists of gallery rows, one per query.

    The conventions are those of `retrieval_metrics`, so the lists of `nearest` on L2-normalised rows give its values.

    Args:
        lists: (q, m), whole numbers: the gallery rows of each query, the best first, with -1 after the last.
        query_labels: q whole numbers of up to 64 bits.
        gallery_labels: g such numbers; None for leave-one-out, in which the queries are the gallery.
        ks: the K of Recall@K. A K beyond the size of the gallery asks for a hit anywhere in it.
        exclude: (q,), for each query the gallery row that its list must not contain, -1 for none. This row does not
            count as relevant. The default is the query itself in leave-one-out, otherwise none.

    Returns:
        The means under the keys `recall_at_1` (one for each of `ks`), `precision_at_1`, `r_precision`, `map_at_r`.

    Raises:
        InvalidInput: lengths that do not fit; lists that contain a row twice, an excluded row or a row outside the
            gallery; lists shorter than a K or than the number of rows of a query's class; or no query with a row of its
            class.
        InvalidType: lists, labels or a K that are not whole numbers.

    Example:
        >>> list_metrics([[1, 2], [0, 2], [1, 0]], [5, 5, 7], ks=(1,))
        {'recall_at_1': 0.6666666666666666, 'precision_at_1': 1.0, 'r_precision': 1.0, 'map_at_r': 1.0}

    Source: as for `retrieval_metrics`.
    Differs from the source: as for `retrieval_metrics`.
    """
    ks, rows = cutoffs(ks, "ks"), _whole_numbers(lists, "lists", 2)
    queries = _whole_numbers(query_labels, "query_labels", 1)
    gallery = queries if gallery_labels is None else _whole_numbers(gallery_labels, "gallery_labels", 1)
    own = _own(exclude, len(queries), leave_one_out=gallery_labels is None)
    _check(rows, own, len(queries), len(gallery))
    query_classes, gallery_classes = _numbered(queries, gallery)
    counts = np.bincount(gallery_classes, minlength=int(query_classes.max()) + 1)
    matches = counts[query_classes] - ((own >= 0) & (gallery_classes[own] == query_classes))
    _check_width(rows.shape[1], max(ks), int(matches.max()), len(gallery) - int((own >= 0).all()))
    _warn_of_queries_without_match(matches)
    recall, ranked = np.zeros(len(ks)), np.zeros(3)
    size = max(1, ENTRIES // rows.shape[1])
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        relevant = (gallery_classes[rows[block]] == query_classes[block, None]) & (rows[block] >= 0)
        recall += [relevant[:, :k].any(1).sum() for k in ks]
        some = matches[block] > 0
        ranked += _precisions(relevant[some], matches[block][some])
    result = {f"recall_at_{k}": float(value) / len(rows) for k, value in zip(ks, recall, strict=True)}
    names = ("precision_at_1", "r_precision", "map_at_r")
    return result | {name: float(v) / int((matches > 0).sum()) for name, v in zip(names, ranked, strict=True)}


def _precisions(relevant: np.ndarray, matches: Int[np.ndarray, " q"]) -> np.ndarray:
    """The sums over queries of Precision@1, R-precision and the average precision at R."""
    rank = np.arange(1, relevant.shape[1] + 1)
    counted = relevant & (rank <= matches[:, None])
    hits = counted.cumsum(1)
    average = (hits * counted / rank).sum(1) / matches
    return np.array([relevant[:, 0].sum(), (hits[:, -1] / matches).sum(), average.sum()])


def _numbered(queries: np.ndarray, gallery: np.ndarray) -> tuple[Int[np.ndarray, " q"], Int[np.ndarray, " g"]]:
    """Numbers the classes 0, 1, ...; compared as Python integers, because int64 and uint64 have no common type."""
    labels = queries.tolist() + gallery.tolist()
    number = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    classes = np.array([number[label] for label in labels])
    return classes[: len(queries)], classes[len(queries) :]


@validates
def _whole_numbers(values: Tensor | np.ndarray | Sequence[int], name: str, dimensions: int) -> np.ndarray:
    array = as_array(values, name)
    if array.ndim != dimensions or 0 in array.shape:
        wanted = "one row per query" if dimensions == 2 else "one number per row"
        raise InvalidInput(f"{name} has the shape {array.shape}; pass {wanted}, and at least one")
    return whole_numbers(array, name)


def _own(exclude: object, q: int, *, leave_one_out: bool) -> Int[np.ndarray, " q"]:
    if exclude is None:
        return np.arange(q) if leave_one_out else np.full(q, -1)
    own: np.ndarray = _whole_numbers(exclude, "exclude", 1).astype(np.int64)  # type: ignore[arg-type]
    if len(own) != q:
        raise InvalidInput(f"exclude has {len(own)} entries for {q} queries; pass one gallery row each, or -1 for none")
    return own


def _check(lists: np.ndarray, own: Int[np.ndarray, " q"], q: int, g: int) -> None:
    if len(lists) != q:
        raise InvalidInput(f"lists has {len(lists)} rows but query_labels has {q} entries; pass one list per query")
    for name, rows in (("lists", lists), ("exclude", own)):
        if int(rows.min()) < -1 or int(rows.max()) >= g:
            raise InvalidInput(
                f"{name} has indices from {int(rows.min())} to {int(rows.max())}, but there are {g} gallery labels; "
                f"pass 0 to {g - 1}, or -1 for none"
            )
    ordered = np.sort(lists, axis=1)
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)
    excluded = ((lists == own[:, None]) & (lists >= 0)).any(1)
    gaps = ((lists[:, 1:] >= 0) & (lists[:, :-1] < 0)).any(1)
    for wrong, what in (
        (repeated, "contains a gallery row twice"),
        (excluded, "contains the row that is excluded for its query"),
        (gaps, "has a row after a -1"),
    ):
        if wrong.any():
            raise InvalidInput(
                f"the list of query {int(wrong.argmax())} {what}; pass each allowed gallery row at most once, and -1 "
                "only after the last"
            )


def _check_width(width: int, k: int, matches: int, candidates: int) -> None:
    wanted = max(min(k, candidates), matches)
    if width < wanted:
        raise InvalidInput(
            f"lists has {width} columns, but the largest K is {k} and a query has up to {matches} gallery rows of its "
            f"class; pass lists with at least {wanted} columns"
        )


def _warn_of_queries_without_match(matches: Int[np.ndarray, " q"]) -> None:
    lone = int((matches == 0).sum())
    if lone == len(matches):
        raise InvalidInput(
            f"none of the {lone} queries has another row of its class in the gallery, so there is nothing to find; "
            "check query_labels, gallery_labels and exclude"
        )
    if lone > 0:
        logger.warning(
            "%d of %d queries have no other row of their class in the gallery: they count as misses in Recall@K and "
            "are left out of the other measures",
            lone,
            len(matches),
        )
