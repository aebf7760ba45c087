"""Limits on images that the documentation promises: exactly at one, just below and just above."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from embedding_expansion.data.decoding import decode
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.data.scans import MOST_SCANS, has_more_scans
from embedding_expansion.data.thumbnails import thumbnail
from embedding_expansion.errors import DataError, InvalidInput

from .test_scans import with_scans


@pytest.mark.parametrize(
    ("height", "width", "taken"), [(1, 100, True), (200, 2, True), (1, 101, False), (201, 2, False)]
)
def test_sides_may_differ_by_a_factor_of_just_100(height: int, width: int, taken: bool) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    if taken:
        assert Preprocessing(8, 10)(pixels).shape == (8, 8, 3)
    else:
        with pytest.raises(InvalidInput, match="a factor of 100"):
            Preprocessing(8, 10)(pixels)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_just_as_many_pixels_as_are_allowed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("L", (6, 5)).save(content, "PNG")
    assert decode(content.getvalue(), max_pixels=30).shape == (5, 6, 3)
    with pytest.raises(DataError, match=r"30 pixels, .* 29 "):
        decode(content.getvalue(), max_pixels=29)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # Pillow's own limit holds as well, where it only warns
    assert decode(content.getvalue()).shape == decode(content.getvalue(), max_pixels=10**9).shape == (5, 6, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29)
    for limit in (None, 10**9):
        with pytest.raises(DataError, match=r"30 pixels, .* 29 "):
            decode(content.getvalue(), max_pixels=limit)


def test_a_jpeg_of_just_100_scans_is_decoded() -> None:
    usual = 10  # of libjpeg's own progression
    for count, taken in ((MOST_SCANS - 1, True), (MOST_SCANS, True), (MOST_SCANS + 1, False)):
        content = with_scans(count - usual)
        with Image.open(io.BytesIO(content)) as image:
            assert (has_more_scans(image, count - 1), has_more_scans(image, count)) == (True, False)
        if taken:
            assert decode(content).shape == (40, 40, 3)
        else:
            with pytest.raises(DataError, match=r"more than .*100 scans"):
                decode(content)
    assert MOST_SCANS == 100


def test_a_batch_takes_just_as_many_classes_as_there_are() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert set(labels[ClassBalancedSampler(labels, 3, 1, seed=0).batch(0)]) == {0, 1, 2}
    for wrong in ((4, 1, 0), (0, 1, 0), (1, 0, 0), (1, 1, -1)):
        with pytest.raises(InvalidInput, match=r"at most 3|at least [01]"):
            ClassBalancedSampler(labels, *wrong)


@pytest.mark.parametrize(
    ("width", "height", "kind", "expected"),
    [
        (256, 1, "JPEG", (256, 1)),
        (257, 2, "JPEG", (256, 2)),
        (64, 256, "PNG", (64, 256)),  # as PNG by its width, whatever its height
        (64, 257, "PNG", (64, 256)),
        (65, 1, "JPEG", (65, 1)),
    ],
)
def test_a_thumbnail_has_256_pixels_at_most_and_is_lossless_up_to_a_width_of_64(
    width: int, height: int, kind: str, expected: tuple[int, int]
) -> None:
    for pixels in (np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)):
        with Image.open(io.BytesIO(thumbnail(pixels))) as image:
            assert (image.format, image.size) == (kind, expected)


def test_a_thumbnail_of_another_size_keeps_to_it_too() -> None:
    for width, kind, expected in ((40, "PNG", 40), (41, "JPEG", 41), (96, "JPEG", 96), (97, "JPEG", 96)):
        with Image.open(io.BytesIO(thumbnail(np.zeros((8, width, 3), np.uint8), 96, 40))) as image:
            assert (image.format, image.width) == (kind, expected)
