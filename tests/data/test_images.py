from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from embedding_expansion.data.images import ImageSet, image_files, read_image
from embedding_expansion.data.preprocessing import TRANSFORMS
from embedding_expansion.data.transforms import test_transform as evaluation_transform
from embedding_expansion.data.transforms import train_transform
from embedding_expansion.errors import DataError, InvalidInput

COLOURS = np.kron(np.random.default_rng(0).integers(0, 256, (3, 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_every_lossless_format_gives_the_pixels_that_were_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(COLOURS).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert torch.equal(read_image(path), as_tensor(Image.fromarray(COLOURS)))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA"])
def test_grey_one_bit_palette_and_transparent_images_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    image.save(tmp_path / "image.png")
    assert torch.equal(read_image(tmp_path / "image.png"), as_tensor(image.convert("RGB")))


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    image.convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    assert (read_image(tmp_path / "image.jpg").float() - as_tensor(image).float()).abs().max() < 8


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "image.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "image.gif")[:, 0, 0].tolist() == [255, 0, 0]


UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
STORED = {  # orientation tag: what a camera stores of the upright picture under it
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
    99: UPRIGHT,
}


@pytest.mark.parametrize("tag", STORED)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_photograph_is_turned_upright(tmp_path: Path, tag: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = tag
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.ascontiguousarray(STORED[tag])).convert("RGB").save(path, exif=exif, **options)
    assert read_image(path)[0].tolist() == UPRIGHT.tolist()


def test_a_photograph_as_phones_write_it_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying = Image.new("RGB", (64, 32))
    lying.paste("white", (0, 0, 32, 32))
    lying.save(tmp_path / "image.jpg", exif=exif)
    image = read_image(tmp_path / "image.jpg").float()
    assert image.shape == (3, 64, 32)
    assert image[:, :30].mean() > 250
    assert image[:, 34:].mean() < 5


def test_broken_tags_leave_a_photograph_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(COLOURS).save(path, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09\x01\x12")
    assert torch.equal(read_image(path), as_tensor(Image.fromarray(COLOURS)))


@pytest.mark.parametrize("filters", ["error", "ignore"])
@pytest.mark.parametrize("limit", [COLOURS.size // 3 - 1, COLOURS.size // 9])
def test_a_suspected_decompression_bomb_is_a_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: Literal["error", "ignore"], limit: int
) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # below the image's pixels by one, and by three times
    with warnings.catch_warnings():
        warnings.simplefilter(filters)
        with pytest.raises(DataError, match=r"image\.png cannot be decoded \(.*192 pixels.*replace or remove it"):
            read_image(tmp_path / "image.png")


def test_an_image_of_one_pixel_goes_through_every_transform(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "image.png")
    image = read_image(tmp_path / "image.png")
    for name in TRANSFORMS:
        for transform in (train_transform(8, name), evaluation_transform(8, name)):
            assert torch.equal(
                transform(image), torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
            )


def test_floating_point_pixels_are_refused_as_their_range_is_not_known(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "image.tif")
    with pytest.raises(DataError, match=r"image\.tif cannot be decoded \(its pixels are floating-point"):
        read_image(tmp_path / "image.tif")


@pytest.mark.parametrize("content", [b"", b"no image", b"truncated"])
def test_a_broken_image_is_an_error_that_names_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    if content == b"truncated":
        Image.fromarray(COLOURS).save(path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg cannot be decoded .*; replace or remove it"):
        read_image(path)


def test_a_missing_image_is_an_error_that_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image file .*nowhere\.png"):
        read_image(tmp_path / "nowhere.png")


def test_classes_are_numbered_in_the_order_of_their_keys() -> None:
    images = image_files([Path("a"), Path("b"), Path("c")], [10, 9, 10], {9: "nine", 10: "ten"})
    assert images.labels.tolist() == [1, 0, 1]
    assert images.class_names == ("nine", "ten")


def test_a_subset_keeps_labels_names_and_marks() -> None:
    pixels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    mark = np.array([True, False, False, True])
    images = ImageSet(np.array([0, 0, 1, 1]), ("a", "b"), pixels=pixels, is_query=mark, is_gallery=~mark)
    part = images.subset([3, 1])
    assert part.labels.tolist() == [1, 0]
    assert part.class_names == ("a", "b")
    assert part.load(0).item() == 3
    assert part.is_query is not None
    assert part.is_query.tolist() == [True, False]
    assert (len(part), part.channels, part.classes.tolist()) == (2, 1, [0, 1])


def test_a_set_that_does_not_fit_together_is_refused() -> None:
    pixels, labels = np.zeros((2, 1, 1, 1), dtype=np.uint8), np.array([0, 1])
    with pytest.raises(InvalidInput, match="paths and pixels are both given or both missing"):
        ImageSet(labels, ("a", "b"))
    with pytest.raises(InvalidInput, match="pixels has 2 entries but labels has 1"):
        ImageSet(labels[:1], ("a", "b"), pixels=pixels)
    with pytest.raises(InvalidInput, match=r"labels has values from 0 to 1, but there are 1 class names"):
        ImageSet(labels, ("a",), pixels=pixels)
    with pytest.raises(InvalidInput, match="only one of is_query and is_gallery is given"):
        ImageSet(labels, ("a", "b"), pixels=pixels, is_query=labels > 0)
