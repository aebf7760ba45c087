from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_expansion.data.preprocessing import THINNEST, TRANSFORMS, Preprocessing
from embedding_expansion.data.resizing import resize
from embedding_expansion.data.transforms import test_transform
from embedding_expansion.errors import InvalidInput


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)


def largest_difference(first: np.ndarray, second: np.ndarray) -> int:
    assert (first.shape, first.dtype) == (second.shape, second.dtype)
    return int(np.abs(first.astype(int) - second.astype(int)).max())


# From 2 on: of sides of 1 pixel torch 2.14 cannot tell how they lie in memory, and stops.
@settings(max_examples=8 * settings().max_examples)
@given(st.integers(2, 200), st.integers(2, 200), st.integers(2, 70), st.sampled_from(TRANSFORMS))
def test_the_pixels_are_those_of_the_training_librarys_transform(height: int, width: int, size: int, name: str) -> None:
    pixels = noise(height, width)
    expected = test_transform(size, name)(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    found = Preprocessing.of(size, name)(pixels)
    assert largest_difference(found, expected.permute(1, 2, 0).numpy()) == 0


def slow_row(row: list[int], count: int) -> list[float]:
    """The triangle filter by its definition."""
    scale = len(row) / count
    reach = max(scale, 1.0)
    result = []
    for index in range(count):
        centre = (index + 0.5) * scale
        weights = [max(0.0, 1 - abs(at + 0.5 - centre) / reach) for at in range(len(row))]
        result.append(sum(w * value for w, value in zip(weights, row, strict=True)) / sum(weights))
    return result


@pytest.mark.parametrize(("old", "new"), [(7, 3), (3, 7), (40, 9), (1, 5), (5, 1), (6, 6)])
def test_a_row_is_resized_by_the_triangle_filter(old: int, new: int) -> None:
    row = noise(1, old, 1)
    found = resize(row, 1, new)[0, :, 0]
    expected = slow_row(row[0, :, 0].tolist(), new)
    assert np.abs(found - np.array(expected)).max() < 0.5 + 0.02  # rounded, with weights of 15 bits


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    assert largest_difference(Preprocessing(20)(noise(20, 20)), noise(20, 20)) == 0


@pytest.mark.parametrize("shape", [(1, THINNEST + 1), (2 * THINNEST + 1, 2)])
def test_a_thread_of_pixels_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="factor of 100"):
        Preprocessing(8, 10)(noise(*shape))
