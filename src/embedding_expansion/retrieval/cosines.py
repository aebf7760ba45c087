"""What a cosine of 1 means where unit rows and their products are rounded. Needs no torch."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

#: A cosine this close to 1 or -1 is 1 or -1. The product of a float32 row of unit norm with itself comes out up to 7e-7
#: from 1 (measured up to 4,096 dimensions), and an image that is embedded twice, in batches of different sizes, or
#: stored in half precision differs by no more. The angle is 0.08 degrees.
ROUNDING = 1e-6


def as_cosine(similarity: float | int) -> float:
    """The cosine that a computed one stands for.

    Example:
        >>> as_cosine(0.99999988), as_cosine(1.0000002), as_cosine(-0.9999999), as_cosine(0.9999)
        (1.0, 1.0, -1.0, 0.9999)
    """
    is_one = 1 - ROUNDING <= abs(similarity) <= 1 + ROUNDING
    return math.copysign(1.0, similarity) if is_one else float(similarity)


def as_cosines(similarities: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The same for an array, in its shape."""
    size = np.abs(similarities)
    return np.where((size >= 1 - ROUNDING) & (size <= 1 + ROUNDING), np.sign(similarities), similarities)


def least_reaching(threshold: float | int) -> float:
    """The smallest computed cosine that stands for one of a threshold or more.

    Example:
        >>> least_reaching(0.5), least_reaching(1), least_reaching(-1)
        (0.5, 0.999999, -inf)
    """
    stands_for = as_cosine(threshold)
    return {1.0: 1 - ROUNDING, -1.0: -math.inf}.get(stands_for, stands_for)
