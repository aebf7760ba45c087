"""Large JPEG files are decoded at a fraction of their size, to the same pixels wherever a model reads them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from embedding_expansion.data.decoding import decode, decode_with_size
from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.loader import batches, evaluation_batches
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.data.transforms import ImageTransform, test_transform, train_transform
from embedding_expansion.errors import DataError
from embedding_expansion.inference.decoder import Decoded, DecodeTask, Verdict, judge
from embedding_expansion.inference.pixels import as_pixels

ORIENTATION = 274  # the number of the tag


def waves(width: int, height: int) -> npt.NDArray[np.uint8]:
    """A smooth image without symmetry."""
    across, down = np.arange(width) / 37, np.arange(height)[:, None] / 23
    return (
        np.stack([np.sin(across + down), np.cos(across - 2 * down), np.sin(3 * across) + 0 * down], 2) * 90 + 128
    ).astype(np.uint8)


def jpeg(width: int, height: int, mode: str = "RGB", orientation: int = 1, **options: object) -> bytes:
    """A JPEG file of waves."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(waves(width, height)).convert(mode).save(file, "JPEG", quality=95, exif=exif, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((800, 400), 400, (800, 400)),
        ((800, 400), 201, (800, 400)),
        ((800, 400), 200, (400, 200)),
        ((800, 400), 101, (400, 200)),
        ((800, 400), 100, (200, 100)),
        ((800, 400), 50, (100, 50)),
        ((800, 400), 1, (100, 50)),
        ((800, 400), 900, (800, 400)),
        ((400, 801), 100, (100, 201)),
        ((1001, 999), 250, (501, 500)),
    ],
)
def test_the_largest_fraction_that_keeps_as_many_pixels_is_taken(
    size: tuple[int, int], least: int, expected: tuple[int, int]
) -> None:
    pixels, whole = decode_with_size(jpeg(*size), least=least)
    assert pixels.shape == (expected[1], expected[0], 3)
    assert whole == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (641, 639), (639, 641), (640, 640)])
def test_orientation_holds_for_pixels_and_for_the_size(size: tuple[int, int], orientation: int) -> None:
    content = jpeg(*size, orientation=orientation)
    (full, of_full), (small, of_small) = (decode_with_size(content, least=least) for least in (None, 50))
    assert of_full == of_small == (full.shape[1], full.shape[0])
    assert small.shape[0] == -(-full.shape[0] // 8)
    assert small.shape[1] == -(-full.shape[1] // 8)
    whole = full.shape[0] // 8 * 8, full.shape[1] // 8 * 8
    means = full[: whole[0], : whole[1]].reshape(whole[0] // 8, 8, whole[1] // 8, 8, 3).mean((1, 3))
    if (whole[0], whole[1]) == full.shape[:2]:  # otherwise the blocks begin elsewhere when the image is turned
        assert np.abs(small - means).mean() < 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_fraction_is_the_mean_of_blocks_of_the_whole(mode: str, options: dict[str, object]) -> None:
    content = jpeg(640, 480, mode, **options)
    full, small = decode(content), decode(content, least=60)
    assert small.shape == (60, 80, 3)
    assert np.abs(small - full.reshape(60, 8, 80, 8, 3).mean((1, 3))).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_other_formats_are_decoded_whole(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(waves(320, 240)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode(file.getvalue(), least=10), waves(320, 240))


def test_an_opened_image_of_the_caller_keeps_its_size() -> None:
    image = Image.open(io.BytesIO(jpeg(800, 600)))
    assert as_pixels(image, least=64).shape == (600, 800, 3)
    assert image.size == (800, 600)


@pytest.mark.parametrize("least", [None, 50])
def test_a_truncated_file_is_refused_either_way(least: int | None) -> None:
    with pytest.raises(DataError, match="truncated"):
        decode(jpeg(800, 600)[:-2000], least=least)


def test_the_limit_of_pixels_is_that_of_the_whole() -> None:
    with pytest.raises(DataError, match="480,000 pixels, but at most 100,000"):
        decode(jpeg(800, 600), 100_000, least=50)


@pytest.mark.parametrize(
    ("transform", "size", "least"),
    [("none", 224, 314), ("paper", 224, 314), ("center_crop", 224, 358), ("crop_flip", 224, 358), ("crop", 32, 256)],
)
def test_more_pixels_than_a_model_needs_are_decoded(transform: str, size: int, least: int) -> None:
    assert Preprocessing.of(size, transform).least == least
    assert test_transform(size, transform).least == train_transform(size, transform).least == least


@pytest.fixture
def photographs(tmp_path: Path) -> ImageSet:
    """Two classes of two large JPEG files each."""
    paths = []
    for number, size in enumerate([(2400, 1600), (1600, 2400), (1700, 1300), (2000, 2000)]):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(jpeg(*size))
        paths.append(path)
    return ImageSet(np.array([0, 0, 1, 1]), ("a", "b"), paths=tuple(paths))


@pytest.mark.parametrize("name", ["paper", "center_crop"])
def test_training_embedding_and_uploads_see_the_same_pixels(photographs: ImageSet, name: str) -> None:
    preprocessing = Preprocessing.of(96, name)
    task = DecodeTask(preprocessing, ("JPEG",), 10**8, False, 2**30)
    ((_, measured),) = evaluation_batches(photographs, test_transform(96, name))
    for path, of_training in zip(photographs.paths or (), measured, strict=True):
        embedded = preprocessing(as_pixels(path, least=preprocessing.least))
        np.testing.assert_array_equal(embedded, of_training.permute(1, 2, 0))
        verdict, uploaded = judge(path.read_bytes(), task)
        assert verdict is Verdict.SQUARE
        np.testing.assert_array_equal(Decoded.of_bytes(uploaded, 96).square, embedded)
        assert np.abs(embedded.astype(int) - preprocessing(decode(path))).mean() < 1  # and close to those of the whole


@pytest.mark.parametrize("name", ["paper", "crop_flip"])
def test_training_draws_its_crops_from_the_reduced_image(photographs: ImageSet, name: str) -> None:
    seen = list[int]()

    class Spy(ImageTransform):
        def __call__(self, image):  # type: ignore[no-untyped-def]
            seen.append(min(image.shape[-2:]))
            return super().__call__(image)

    given = train_transform(96, name)
    spy = Spy(given.size, given.is_random, given.steps, given.least)
    (drawn,) = batches(photographs, ClassBalancedSampler(photographs.labels, 2, 2, 0), spy, seed=0, stop=1)
    assert drawn[1].shape == (4, 3, 96, 96)
    assert sorted(seen) == sorted([400, 400, 325, 500])  # 256 are needed at least; 1300 / 4 is 325
