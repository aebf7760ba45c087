"""Embedder: every way to hand over an image gives the vectors that training measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embedding_expansion.data.images import read_image
from embedding_expansion.data.transforms import test_transform
from embedding_expansion.errors import DataError, InvalidInput, InvalidType, RunError
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.thresholds import write_thresholds
from embedding_expansion.model.trained import load_trained
from embedding_expansion.retrieval.threshold import Task, Threshold

CALIBRATED: dict[Task, float] = {"same or not": 0.75, "known or unknown": 0.5}


@pytest.fixture(scope="module")
def embedder(trained: Path) -> Embedder:
    return Embedder.load(trained, device="cpu", batch_size=5)


def as_training_embeds(run: Path, paths: list[Path]) -> np.ndarray:
    opened = load_trained(run)
    transform = test_transform(opened.preprocessing.size, str(opened.config.data.transform))
    return opened.model.embed(torch.stack([transform(read_image(path)) for path in paths])).numpy()


def test_files_get_the_vectors_that_training_gives_them_in_their_order(
    embedder: Embedder, trained: Path, files: list[Path]
) -> None:
    found = embedder.embed(files)
    assert (found.shape, found.dtype) == ((32, 6), np.float32)
    np.testing.assert_allclose(found, as_training_embeds(trained, files), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


FORMS: dict[str, Callable[[Path], object]] = {
    "a path": lambda path: path,
    "its name": str,
    "bytes": lambda path: path.read_bytes(),
    "Pillow": Image.open,
    "array": lambda path: np.asarray(Image.open(path)),
    "tensor of bytes": lambda path: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1),
    "tensor of floats": lambda path: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255,
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_has_the_same_vector_in_every_form(embedder: Embedder, files: list[Path], form: str) -> None:
    assert np.array_equal(embedder.embed(FORMS[form](files[0])), embedder.embed(files[:1]))


def test_forms_can_be_mixed_and_come_one_by_one(embedder: Embedder, files: list[Path]) -> None:
    mixed = (list(FORMS.values())[index % len(FORMS)](path) for index, path in enumerate(files))
    np.testing.assert_allclose(embedder.embed(mixed), embedder.embed(files), atol=1e-6)


def test_a_stack_of_arrays_is_several_images_and_a_grey_one_is_repeated(embedder: Embedder) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)
    coloured = np.stack([grey] * 3, axis=2)
    expected = embedder.embed(coloured)
    assert embedder.embed(np.stack([coloured] * 4)).shape == (4, 6)
    assert np.array_equal(embedder.embed(grey), expected)
    assert np.array_equal(embedder.embed(torch.from_numpy(grey)[None]), expected)
    assert np.array_equal(embedder.embed(Image.fromarray(grey)), expected)


def test_no_image_gives_no_vector(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 6)


def test_flip_averages_an_image_and_its_mirror_image(embedder: Embedder, files: list[Path]) -> None:
    pixels = [np.asarray(Image.open(path).resize((16, 16))) for path in files[:3]]
    # 18 pixels are the short side that 16 are cut from, so that mirroring the square is mirroring the image
    mirrored = [image[:, ::-1].copy() for image in pixels]
    total = embedder.embed(pixels).astype(np.float64) + embedder.embed(mirrored)
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    found = embedder.embed(pixels, flip=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - embedder.embed(pixels)).max() > 1e-3


def test_a_broken_image_is_named_or_left_out(embedder: Embedder, files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "half.jpg"
    bad.write_bytes(files[0].read_bytes()[:200])
    missing = tmp_path / "gone.png"
    images = [files[0], bad, b"no image", files[1], missing]
    with pytest.raises(DataError, match=r"images\[1\]: the image .*half\.jpg cannot be decoded"):
        embedder.embed(images)
    broken: dict[int, str] = {}
    assert np.array_equal(embedder.embed(images, broken=broken), embedder.embed(files[:2]))
    assert sorted(broken) == [1, 2, 4]
    assert "its format or its kind of pixels is not known" in broken[2]
    assert "there is no image file" in broken[4]


def test_images_that_are_too_large_or_too_thin_are_broken(embedder: Embedder, files: list[Path]) -> None:
    with pytest.raises(DataError, match="it has 1,230 pixels, but at most 1,000"):
        embedder.embed(files[0], max_pixels=1000)
    with pytest.raises(DataError, match="factor of 100"):
        embedder.embed(np.zeros((1, 101, 3), dtype=np.uint8))


def test_only_formats_of_images_are_opened(embedder: Embedder, tmp_path: Path) -> None:
    page = tmp_path / "page.jpg"  # whatever it is called: PostScript, for which Pillow would start another program
    Image.new("RGB", (8, 8)).save(page, format="EPS")
    with pytest.raises(DataError, match="its format or its kind of pixels is not known"):
        embedder.embed(page)


@pytest.mark.parametrize(
    ("image", "error", "sentence"),
    [
        ([{}], InvalidType, r"images\[0\]: it is a dict"),
        (7, InvalidType, "images is a int"),
        (np.zeros((4, 4, 3)), InvalidType, "array of float64"),
        (np.zeros((4, 4, 2), dtype=np.uint8), InvalidInput, r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), InvalidInput, r"shape \(0, 4, 3\)"),
        (torch.full((3, 4, 4), 2.0), InvalidInput, r"outside 0\.\.1"),
        (torch.full((3, 4, 4), float("nan")), InvalidInput, r"outside 0\.\.1"),
        (torch.zeros(4, 4, 3), InvalidInput, r"tensor of shape \(4, 4, 3\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), InvalidType, "array of int64"),
    ],
)
def test_what_is_no_image_is_refused(embedder: Embedder, image: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        embedder.embed(image, broken={})


def test_it_says_what_it_is(embedder: Embedder, trained: Path) -> None:
    assert (embedder.dimensions, embedder.image_size, embedder.thresholds) == (6, 16, {})
    said = embedder.describe()
    assert said["preprocessing"]["short_side"] == 18
    metrics = json.loads((trained / "metrics.json").read_text())
    assert said["measures"]["recall_at_1"] == metrics["recall_at_1"]
    assert json.loads(json.dumps(said)) == said


def test_calibrated_thresholds_are_read_from_beside_the_model(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    thresholds = {
        task: Threshold(value, task, "precision", 0.99, 0.993, 0.81, 40, 250) for task, value in CALIBRATED.items()
    }
    write_thresholds(run, thresholds)
    assert Embedder.load(run).thresholds == thresholds
    file = run / "thresholds.json"
    written = file.read_text()
    for broken in (written.replace("0.75", '"high"'), written.replace('"same or not": {', '"known": {'), "[]", "{"):
        file.write_text(broken)
        with pytest.raises(RunError, match=r"thresholds\.json"):
            Embedder.load(run)


def test_what_is_no_model_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        Embedder.load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"config\.yaml"):
        Embedder.load(tmp_path)
    with pytest.raises(InvalidInput, match="no device"):
        Embedder.load(trained, device="tpu9000")
    with pytest.raises(InvalidInput, match="batch_size is 0"):
        Embedder.load(trained, batch_size=0)
