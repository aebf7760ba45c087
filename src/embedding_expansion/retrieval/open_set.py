"""Known or unknown: decides by the similarity of the nearest row whether the class of a query is in the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from embedding_expansion.checks import as_share
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import as_cosines
from embedding_expansion.retrieval.ranks import largest
from embedding_expansion.retrieval.search import Comparison, block_rows
from embedding_expansion.retrieval.task import SearchSides, common_dtype, retrieval_task
from embedding_expansion.retrieval.threshold import Threshold, calibrate


@dataclass(frozen=True)
class OpenSetCurve:
    """Detection, identification and false-alarm rates at every threshold of the similarity of the nearest row.

    Attributes:
        thresholds: (t,), descending.
        detection: (t,), the share of known queries (those with a row of their class in the gallery) that reach the
            threshold.
        identification: (t,), the share of known queries that reach the threshold and whose nearest row is of their
            class: the detection and identification rate (DIR) at rank 1.
        false_alarms: (t,), the share of unknown queries that reach the threshold.
        known: the number of known queries.
        unknown: the number of unknown queries.
    """

    thresholds: Float[np.ndarray, " t"]
    detection: Float[np.ndarray, " t"]
    identification: Float[np.ndarray, " t"]
    false_alarms: Float[np.ndarray, " t"]
    known: int
    unknown: int

    @property
    def auc(self) -> float:
        """The probability that a known query is nearer to the gallery than an unknown one; ties count half."""
        x, y = (np.concatenate([[0.0], part]) for part in (self.false_alarms, self.detection))
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())

    @validates
    def detection_at(self, false_alarm_rate: float) -> float:
        """The largest detection rate at or below a false-alarm rate from 0 to 1, without interpolation."""
        false_alarm_rate = as_share(false_alarm_rate, "false_alarm_rate")
        return float(self.detection[self.false_alarms <= false_alarm_rate].max(initial=0.0))

    @validates
    def dir_at(self, false_alarm_rate: float) -> float:
        """The largest DIR at rank 1 at or below a false-alarm rate from 0 to 1, without interpolation."""
        false_alarm_rate = as_share(false_alarm_rate, "false_alarm_rate")
        return float(self.identification[self.false_alarms <= false_alarm_rate].max(initial=0.0))

    @property
    def precisions(self) -> Float[np.ndarray, " t"]:
        """The share of correct answers at each threshold: those that name the class of a known query."""
        answers = self.detection * self.known + self.false_alarms * self.unknown
        share: np.ndarray = self.identification * self.known / answers
        return share

    @validates
    def threshold(self, *, false_alarm_rate: float | None = None, precision: float | None = None) -> Threshold:
        """Chooses the threshold with the largest DIR that keeps a false-alarm rate or a precision.

        Pass one of the two.

        Args:
            false_alarm_rate: the largest share of unknown queries that may be answered, 0 to 1.
            precision: the smallest share of answers that must be correct, 0 to 1, if unknown queries are as frequent as
                in this data.

        Raises:
            InvalidInput: both or neither are given, the value is not from 0 to 1, or no threshold keeps it.
        """
        curve = (self.thresholds, self.identification, self.false_alarms, self.precisions)
        return calibrate("known or unknown", *curve, (self.known, self.unknown), false_alarm_rate, precision)


@torch.no_grad()
@validates
def open_set(
    embeddings: Tensor | np.ndarray, labels: Tensor | np.ndarray | Sequence[int], **sides: Unpack[SearchSides]
) -> OpenSetCurve:
    """Measures how well the similarity of the nearest row separates known queries from unknown ones.

    A query is answered with the class of its nearest gallery row by cosine (of equally near rows the first) if that
    cosine reaches the threshold. The curve is exact: it has a threshold for the similarity of every query. To get
    unknown queries, leave the rows of some classes out of the gallery.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm.
        labels: n whole numbers of up to 64 bits.
        sides: the queries and the gallery: `is_query`, `is_gallery`, or `gallery` and `gallery_labels`, as in
            `retrieval_metrics`. A row never finds itself.

    Raises:
        InvalidInput: sizes that do not fit, non-finite entries, a query with nothing to compare, no known query, or no
            unknown query.
        InvalidType: an argument of the wrong type.

    Example:
        >>> queries, gallery = np.array([[1.0, 0.1], [0.1, 1.0], [-1.0, 0.0]]), np.eye(2)
        >>> curve = open_set(queries, [0, 1, 2], gallery=gallery, gallery_labels=[0, 1])
        >>> curve.dir_at(0.0), curve.known, curve.unknown
        (1.0, 2, 1)

    Source: P. J. Phillips, P. Grother, R. Micheals, "Evaluation Methods in Face Recognition", Handbook of Face
        Recognition, 2011: the open-set watch list.
    Differs from the source: rank 1 only.
    """
    task = retrieval_task(embeddings, labels, **sides)
    known = (task.matches > 0).cpu().numpy()
    if known.all() or not known.any():
        raise InvalidInput(
            f"{int(known.sum())} of {len(known)} queries have a row of their class in the gallery, but both known and "
            "unknown queries are needed; leave some classes out of the gallery with is_gallery"
        )
    g, q, dtype = len(task.gallery), len(known), common_dtype(task)
    size = min(q, block_rows(g, 1, dtype))
    compare = Comparison(task.gallery, dtype, size)
    scores, right = torch.empty(q, dtype=torch.float64), torch.empty(q, dtype=torch.bool)
    for start in range(0, q, size):
        block = slice(start, start + size)
        found, columns = largest(compare(task.queries[block].to(dtype), task.own[block]), 1)
        scores[block] = found[:, 0].cpu().double()
        classes = task.gallery_classes[columns[:, 0].clamp_(max=g - 1)]
        right[block] = (classes == task.query_classes[block]).cpu()
    if not bool(scores.isfinite().all()):
        raise InvalidInput("the only gallery row is the query itself; pass a gallery of at least two rows")
    return _curve(as_cosines(scores.numpy()), known, right.numpy() & known)


def _curve(
    scores: Float[np.ndarray, " q"], known: Bool[np.ndarray, " q"], right: Bool[np.ndarray, " q"]
) -> OpenSetCurve:
    values, position = np.unique(-scores, return_inverse=True)
    reached = [np.bincount(position[kind], minlength=len(values)).cumsum() for kind in (known, right, ~known)]
    counts = int(known.sum()), int((~known).sum())
    return OpenSetCurve(-values, reached[0] / counts[0], reached[1] / counts[0], reached[2] / counts[1], *counts)
