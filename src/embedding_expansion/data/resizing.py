"""Bilinear resizing with antialiasing in NumPy, with exactly the pixels that torch computes on most processors.

A program that embeds images needs the pixels that the model was trained on, and may not have torch. Pillow's resize
differs by one level in some pixels, because it rounds its weights at another bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resizes an image (h, w, c) to (height, width, c).

    Each new row is a weighted mean of old rows. The weight is 1 - |distance| / s, and 0 from distance s on, where s is
    the factor by which the image shrinks (1 if it grows). Columns are resized first and rounded to uint8, then rows.

    Example:
        >>> resize(np.array([[[0], [100], [200], [100]]], dtype=np.uint8), 1, 2)[0, :, 0].tolist()
        [71, 143]

    Source: the triangle filter as torch applies it to uint8 (`interpolate(..., mode="bilinear", antialias=True)`).
    Differs from the source: torch computes in whole numbers only on processors with AVX2. On other processors, and in
        older versions for some sizes, it rounds once at the end; its pixels may then differ by one level of 255.
    """
    return _mix(_mix(pixels.swapaxes(0, 1), width).swapaxes(0, 1), height)


def _mix(rows: Pixels, count: int) -> Pixels:
    """Resizes an image to `count` rows."""
    if len(rows) == count:
        return rows
    first, weights = _weights(len(rows), count)
    whole, bits = _rounded(weights)
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    total = np.full((count, flat.shape[1]), 1 << (bits - 1), dtype=np.int32)  # one half, so that the shift rounds
    for tap in range(whole.shape[1]):
        at = np.minimum(first + tap, len(rows) - 1)  # beyond the last row the weight is 0
        total += np.multiply(flat[at], whole[:, tap, None], dtype=np.int32)
    return (total >> bits).clip(0, 255).astype(np.uint8).reshape(count, *rows.shape[1:])


def _weights(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each new row, the first old row with a weight, and the weights of this and the following rows."""
    scale = old / new
    reach = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((centre + reach + 0.5).astype(np.int64), old)
    at = first[:, None] + np.arange((stop - first).max())
    weights = np.maximum(0, 1 - np.abs(at - centre[:, None] + 0.5) / reach)
    weights[at >= stop[:, None]] = 0
    return first, weights / weights.sum(axis=1, keepdims=True)


def _rounded(weights: npt.NDArray[np.float64]) -> tuple[npt.NDArray[Any], int]:
    """The weights as whole numbers of 15 bits, and the number of bits by which they are shifted."""
    largest = weights.max()
    bits = next((bits for bits in range(22) if int(0.5 + largest * (1 << (bits + 1))) >= 1 << 15), 22)
    return (0.5 + weights * (1 << bits)).astype(np.int32), bits
