"""Same or not: the ROC curve of the similarities of all pairs of a set, or of a sample of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_limit
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import as_cosines
from embedding_expansion.retrieval.inputs import UnitRows, class_indices, embedding_rows, generator_of
from embedding_expansion.retrieval.roc import VerificationCurve, curve_of_counts, verification_of_pairs

# Up to this number of pairs every similarity is kept; the similarities of more pairs are counted in bins.
KEPT = 2**22
BINS = 2**16
# Blocks of this many rows are compared with each other.
PIECE = 1024


@torch.no_grad()
@validates
def verification(
    embeddings: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    *,
    sample: int | None = None,
    seed: int = 0,
) -> VerificationCurve:
    """Measures how well a threshold on the cosine separates pairs of one class from pairs of different classes.

    Every pair of different rows counts once. Up to 4 million pairs (2,896 rows) the curve is exact, with a threshold
    for every similarity. More pairs are all compared as well, but their similarities are counted in 65,536 bins of
    equal width, which bounds the memory. The thresholds are then the lower ends of the bins. The rates at the
    thresholds are exact up to rounding, and the AUC counts pairs in one bin as ties. With `sample`, pairs are drawn
    instead. That is fast and unbiased, but does not measure false accept rates below about 10 / sample.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm; compared in float32 (float64 if they are
            float64). Half precision is converted a piece at a time.
        labels: n whole numbers of up to 64 bits.
        sample: how many pairs of one class, and of different classes, to draw with replacement; None for all pairs.
        seed: of the draw.

    Raises:
        InvalidInput: an empty or non-finite matrix, labels that do not fit it, or only one kind of pairs.
        InvalidType: embeddings that are not a floating-point matrix, or labels that are not whole numbers.

    Example:
        >>> curve = verification(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), [0, 0, 1, 1])
        >>> curve.auc, curve.same, curve.different, curve.exact
        (1.0, 2, 4, True)
        >>> round(curve.threshold(false_alarm_rate=0.0).value, 3)
        0.994

    Source: P. Grother, M. Ngan, K. Hanaoka, "Face Recognition Vendor Test, Part 1: Verification", NIST.
    Differs from the source: nothing.
    """
    rows = UnitRows(embedding_rows(embeddings))
    classes = torch.from_numpy(class_indices(labels, len(rows)))
    n = len(rows)
    sizes = [int(size) for size in torch.bincount(classes)]
    same = sum(size * (size - 1) // 2 for size in sizes)
    totals = same, n * (n - 1) // 2 - same
    if 0 in totals:
        raise InvalidInput(
            f"there are {totals[0]} pairs of one class and {totals[1]} pairs of different classes; pass labels that "
            "give both kinds"
        )
    sample = as_limit(sample, "sample")
    if sample is not None:
        pairs = _drawn(classes.numpy(), sample, generator_of(seed))
        return verification_of_pairs(_cosines(rows, *pairs), torch.arange(2 * sample) < sample, totals=totals)
    if sum(totals) <= KEPT:
        first, second = torch.triu_indices(n, n, 1)
        return verification_of_pairs(_cosines(rows, first, second), classes[first] == classes[second])
    counts = _binned(rows, classes.to(rows.device)).view(2, BINS).flip(1).cpu().numpy()
    thresholds = (-1 + 2 / BINS * np.arange(BINS))[::-1]
    return curve_of_counts(thresholds, counts[1], counts[0], None, exact=False)


def _binned(rows: UnitRows, classes: Int[Tensor, " n"]) -> Int[Tensor, " bins"]:
    """The number of pairs with a similarity in each bin: first the pairs of different classes, then those of one."""
    counts = torch.zeros(2 * BINS, dtype=torch.int64, device=rows.device)
    for start in range(0, len(rows), PIECE):
        block, own = rows[start : start + PIECE], classes[start : start + PIECE].unsqueeze(1)
        for other in range(start, len(rows), PIECE):
            with torch.autocast(rows.device.type, enabled=False):
                cosines = block @ rows[other : other + PIECE].T
            bins = cosines.add_(1).mul_(BINS / 2).clamp_(0, BINS - 1).int()
            bins += BINS * (own == classes[other : other + PIECE])
            if other == start:
                bins = bins[torch.ones_like(bins, dtype=torch.bool).triu_(1)]
            counts += torch.bincount(bins.flatten(), minlength=2 * BINS)
    return counts


def _cosines(rows: UnitRows, first: Int[Tensor, " m"], second: Int[Tensor, " m"]) -> Float[np.ndarray, " m"]:
    size = 16 * PIECE
    parts = zip(torch.split(first.to(rows.device), size), torch.split(second.to(rows.device), size), strict=True)
    return as_cosines(torch.cat([(rows[i] * rows[j]).sum(1) for i, j in parts]).cpu().numpy())


def _drawn(
    classes: Int[np.ndarray, " n"], count: int, random: np.random.Generator
) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """Draws `count` pairs of one class, then `count` pairs of different classes, each uniformly from all such pairs."""
    order, sizes = np.argsort(classes, kind="stable"), np.bincount(classes)
    starts = sizes.cumsum() - sizes
    pairs = sizes * (sizes - 1.0)
    own = random.choice(len(sizes), count, p=pairs / pairs.sum())
    first = random.integers(0, sizes[own])
    # One of the other rows of the class: positions from the first row on move up by one.
    second = random.integers(0, sizes[own] - 1)
    second += second >= first
    same = order[starts[own] + first], order[starts[own] + second]
    # The first row of a pair of different classes is drawn in proportion to the number of its partners, the second
    # uniformly from the rows that follow its class in circular order.
    partners = (len(classes) - sizes[classes]).astype(float)
    first = random.choice(len(classes), count, p=partners / partners.sum())
    ends = (starts + sizes)[classes[first]]
    second = order[(ends + random.integers(0, (len(classes) - sizes)[classes[first]])) % len(classes)]
    sides = (np.concatenate(side) for side in zip(same, (first, second), strict=True))
    left, right = (torch.from_numpy(side) for side in sides)
    return left, right
