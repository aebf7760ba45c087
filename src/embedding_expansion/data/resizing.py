"""Bilinear resizing with antialiasing in NumPy, to the last bit what torch makes of uint8 pixels on most processors.

A program that embeds images needs the pixels that the model was trained on, and may not have torch. Pillow's own
resize is near, but differs by one level in some pixels, since its weights are rounded at another bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resizes an image (h, w, c) to (height, width, c).

    Each new row is a weighted mean of old ones: weight 1 - |distance| / s, and 0 from s on, with s the factor by which
    the image shrinks (1 where it grows). Columns first, rounded to uint8, then rows.

    Example:
        >>> resize(np.array([[[0], [100], [200], [100]]], dtype=np.uint8), 1, 2)[0, :, 0].tolist()
        [71, 143]

    Source: the triangle filter as torch applies it to uint8 (`interpolate(..., mode="bilinear", antialias=True)`).
    Differs from the source: torch works in whole numbers only on processors with AVX2. On others it rounds once, at
    the end, and so do older versions for some sizes; its pixels may then differ from these by one level of 255.
    """
    return _mix(_mix(pixels.swapaxes(0, 1), width).swapaxes(0, 1), height)


def _mix(rows: Pixels, count: int) -> Pixels:
    """Makes `count` rows of those that there are."""
    if len(rows) == count:
        return rows
    first, weights = _weights(len(rows), count)
    whole, bits = _rounded(weights)
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    total = np.full((count, flat.shape[1]), 1 << (bits - 1), dtype=np.int32)  # a half, so that the shift rounds
    for tap in range(whole.shape[1]):
        at = np.minimum(first + tap, len(rows) - 1)  # beyond the last row the weight is 0
        total += np.multiply(flat[at], whole[:, tap, None], dtype=np.int32)
    return (total >> bits).clip(0, 255).astype(np.uint8).reshape(count, *rows.shape[1:])


def _weights(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each new row the first old one that it is made of, and the weights from that one on."""
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
    """The weights as whole numbers of 15 bits, and by how many bits they are shifted."""
    largest = weights.max()
    bits = next((bits for bits in range(22) if int(0.5 + largest * (1 << (bits + 1))) >= 1 << 15), 22)
    return (0.5 + weights * (1 << bits)).astype(np.int32), bits
