"""Every kind of pixels, in files written without Pillow, against arithmetic on the numbers that were written."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageChops

from data.pixel_files import DEFLATE, on_white, packed, png, tiff
from embedding_expansion.data.decoding import decode
from embedding_expansion.data.images import read_image
from embedding_expansion.data.thumbnails import thumbnail
from embedding_expansion.errors import DataError
from embedding_expansion.inference.pixels import as_pixels

RANDOM = np.random.default_rng(0)


def grey(content: bytes) -> Any:
    pixels = decode(content)
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[:, :, 0].tolist()


def scaled(values: npt.NDArray[np.int64], largest: int) -> Any:
    return np.round(values * 255 / largest).astype(int).tolist()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_sixteen_bits_of_a_tiff_are_scaled_to_eight(order: str, compression: int) -> None:
    values = np.concatenate([RANDOM.integers(0, 65536, (6, 9)), [[0, 1, 128, 129, 255, 256, 257, 32896, 65535]]])
    rows = [row.astype(f"{order}u2").tobytes() for row in values]
    assert grey(tiff(rows, 9, 16, order=order, compression=compression)) == scaled(values, 65535)


@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_where_zero_is_white_sixteen_bits_are_reversed(compression: int) -> None:
    values = RANDOM.integers(0, 65536, (3, 5))
    rows = [row.astype("<u2").tobytes() for row in values]
    assert grey(tiff(rows, 5, 16, photometric=0, compression=compression)) == scaled(65535 - values, 65535)


@pytest.mark.parametrize("compression", [1, DEFLATE])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12])
def test_the_largest_number_of_a_tiff_is_white(bits: int, compression: int) -> None:
    largest = 2**bits - 1
    values = np.stack([np.array([0, largest, largest // 2, 1]), RANDOM.integers(0, largest + 1, 4)])
    rows = [packed(row.tolist(), bits) for row in values]
    assert grey(tiff(rows, 4, bits, compression=compression)) == scaled(values, largest)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_largest_number_of_a_png_is_white(bits: int) -> None:
    values = RANDOM.integers(0, 2**bits, (3, 7))
    assert grey(png([packed(row.tolist(), bits) for row in values], 7, bits, 0)) == scaled(values, 2**bits - 1)


@pytest.mark.parametrize("largest", [1, 100, 255, 1000, 65535])
@pytest.mark.parametrize("is_text", [False, True])
def test_the_largest_number_of_a_pgm_is_the_one_it_states(largest: int, is_text: bool) -> None:
    values = RANDOM.integers(0, largest + 1, (3, 4))
    head = f"{'P2' if is_text else 'P5'} 4 3 {largest}\n".encode()
    numbers = values.astype(">u2" if largest > 255 else "u1")
    body = " ".join(map(str, values.ravel())).encode() if is_text else numbers.tobytes()
    difference = np.array(grey(head + body)) - values * 255 / largest
    assert np.abs(difference).max() <= 0.51  # Pillow scales to 65535 first


def test_sixteen_bits_a_colour_keep_the_upper_eight() -> None:
    values = RANDOM.integers(0, 65536, (2, 3, 3))
    for order in "<>":
        rows = [row.astype(f"{order}u2").tobytes() for row in values]
        assert decode(tiff(rows, 3, 16, samples=3, photometric=2, order=order)).tolist() == (values >> 8).tolist()
    assert decode(png([row.astype(">u2").tobytes() for row in values], 3, 16, 2)).tolist() == (values >> 8).tolist()


REFUSED = {
    f"{order}{kind}": tiff([np.arange(4).astype(order + kind).tobytes()], 4, bits, sample_format=form, order=order)
    for order, (kind, bits, form) in itertools.product(
        "<>", [("i1", 8, 2), ("i2", 16, 2), ("i4", 32, 2), ("f4", 32, 3)]
    )
} | {"<u4": tiff([np.arange(4).astype("<u4").tobytes()], 4, 32)}


@pytest.mark.parametrize("kind", REFUSED)
def test_numbers_of_which_none_is_known_to_be_white_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(REFUSED[kind])
    named = "floating-point numbers" if "f" in kind else "signed or 32-bit numbers"
    with pytest.raises(DataError, match=rf"image\.tif cannot be decoded \(its pixels are {named}; save it with 8"):
        read_image(path)
    with pytest.raises(DataError, match=named):
        as_pixels(Image.open(io.BytesIO(REFUSED[kind])))


@pytest.mark.parametrize("bits", [10, 14, 24, 64])
def test_kinds_that_pillow_does_not_read_are_refused_in_a_sentence(bits: int) -> None:
    with pytest.raises(DataError, match="its format or its kind of pixels is not known"):
        decode(tiff([bytes(32)], 4, bits))


def test_a_pillow_image_of_whole_numbers_is_scaled_or_refused_alike() -> None:
    values = RANDOM.integers(0, 65536, (3, 4))
    assert as_pixels(Image.fromarray(values.astype(np.uint16)))[:, :, 0].tolist() == scaled(values, 65535)
    with pytest.raises(DataError, match=r"the Pillow image cannot be decoded .*32-bit"):
        as_pixels(Image.fromarray(values.astype(np.int32)))


HIDDEN = RANDOM.integers(0, 256, (8, 8, 3)).astype(np.uint8)
ALPHA = RANDOM.choice([0, 1, 77, 128, 254, 255], (8, 8)).astype(np.uint8)


def seen(colours: npt.NDArray[np.uint8] = HIDDEN) -> Any:
    return np.round(on_white(colours.astype(float), ALPHA[:, :, None] / 255)).astype(int).tolist()


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_what_is_hidden_under_transparent_pixels_is_white(tmp_path: Path, suffix: str) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(np.dstack([HIDDEN, ALPHA])).save(tmp_path / f"image.{suffix}", **options)
    assert decode(tmp_path / f"image.{suffix}").tolist() == seen()
    assert as_pixels(Image.open(io.BytesIO((tmp_path / f"image.{suffix}").read_bytes()))).tolist() == seen()


def test_transparent_greys_are_composed_onto_white() -> None:
    greys = HIDDEN[:, :, :1]
    rows = [row.tobytes() for row in np.dstack([greys, ALPHA])]
    assert decode(png(rows, 8, 8, 4)).tolist() == seen(greys.repeat(3, axis=2))
    assert decode(tiff(rows, 8, 8, samples=2, extra=2)).tolist() == seen(greys.repeat(3, axis=2))


def test_premultiplied_pixels_lie_on_white_as_others_do() -> None:
    premultiplied = np.round(HIDDEN * (ALPHA[:, :, None] / 255)).astype(np.uint8)
    expected = premultiplied + 255.0 - ALPHA[:, :, None]
    rows = [row.tobytes() for row in np.dstack([premultiplied, ALPHA])]
    assert np.abs(decode(tiff(rows, 8, 8, samples=4, photometric=2, extra=1)) - expected).max() <= 1  # divided first
    rows = [row.tobytes() for row in np.dstack([premultiplied[:, :, :1], ALPHA])]
    assert np.abs(decode(tiff(rows, 8, 8, samples=2, extra=1)) - expected[:, :, :1]).max() <= 1


def test_a_palette_with_transparency_is_composed_onto_white() -> None:
    palette = RANDOM.integers(0, 256, (4, 3)).astype(np.uint8)
    alpha = np.array([0, 128, 255, 255]) / 255
    expected = np.round(on_white(palette.astype(float), alpha[:, None])).astype(int)
    content = png([bytes([0, 1, 2, 3])], 4, 8, 3, PLTE=palette.tobytes(), tRNS=bytes([0, 128]))
    assert decode(content)[0].tolist() == expected.tolist()


def test_the_transparent_colour_of_a_gif_is_white() -> None:
    content = io.BytesIO()
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(content, "GIF", transparency=0)
    assert decode(content.getvalue()).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white_at_every_depth(bits: int) -> None:
    largest = 2**bits - 1
    values = np.array([[0, largest // 3, largest // 2, largest]])
    for key in values[0].tolist():
        content = png([packed(values[0].tolist(), bits)], 4, bits, 0, tRNS=key.to_bytes(2, "big"))
        assert grey(content) == scaled(np.where(values == key, largest, values), largest)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_transparent_colour_of_a_png_is_white(bits: int) -> None:
    values = np.array([[1000, 2000, 3000], [1000, 2000, 5000], [1, 2, 3]]) % 2**bits
    kind = ">u2" if bits == 16 else "u1"
    transparent = values[0].astype(">u2").tobytes()
    content = png([values.astype(kind).tobytes()], 3, bits, 2, tRNS=transparent)
    assert decode(content)[0].tolist() == [[255, 255, 255], *(values[1:] >> (bits - 8)).tolist()]


def test_training_inference_and_thumbnails_see_the_same_pixels(tmp_path: Path) -> None:
    """A transparent one with a tag that turns it, and one of 16 bits."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.dstack([HIDDEN, ALPHA])).save(tmp_path / "turned.png", exif=exif)
    values = RANDOM.integers(0, 65536, (8, 8))
    (tmp_path / "deep.tif").write_bytes(tiff([row.astype("<u2").tobytes() for row in values], 8, 16))
    for path in tmp_path.iterdir():
        pixels = read_image(path).permute(1, 2, 0).numpy()
        for given in (os.fspath(path), path.read_bytes(), Image.open(io.BytesIO(path.read_bytes()))):
            assert np.array_equal(as_pixels(given), pixels)
        with Image.open(io.BytesIO(thumbnail(pixels))) as small:
            assert np.array_equal(np.asarray(small), pixels)
    assert read_image(tmp_path / "turned.png").permute(1, 2, 0).tolist() == np.rot90(seen(), -1).tolist()


def adobe(content: bytes, transform: int) -> bytes:
    """A JPEG file that says how its four channels were transformed."""
    place = content.index(b"Adobe") + 11
    return content[:place] + bytes([transform]) + content[place + 1 :]


@pytest.mark.parametrize("is_ycck", [False, True])
def test_jpeg_files_of_four_colours_become_rgb(is_ycck: bool) -> None:
    """Adobe stores inks reversed, in YCCK three of them as if they were RGB, in YCbCr."""
    ink = Image.new("RGB", (16, 16), (55, 155, 205))
    stored = ink.convert("YCbCr") if is_ycck else ImageChops.invert(ink)
    # Pillow reverses what it writes, so that the file holds what is stored, and 255 for no black.
    ink = Image.merge("CMYK", [*ImageChops.invert(stored).split(), Image.new("L", (16, 16), 0)])
    content = io.BytesIO()
    ink.save(content, "JPEG", quality=95)
    decoded = decode(adobe(content.getvalue(), 2 if is_ycck else 0)).astype(int)
    assert np.abs(decoded - (200, 100, 50)).max() < 8


def test_lab_becomes_rgb() -> None:
    rows = [bytes([255, 0, 0, 0, 0, 0, 128, 0, 0])]  # white, black, grey: no colour in a and b
    pixels = decode(tiff(rows, 3, 8, samples=3, photometric=8))[0].astype(int)
    assert np.abs(pixels[:2] - [[255, 255, 255], [0, 0, 0]]).max() <= 2
    assert np.ptp(pixels[2]) <= 2
