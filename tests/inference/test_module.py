"""Embedder(module, transform): any network with its own transform."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from embedding_expansion import Collection, Embedder, Item, create_index
from embedding_expansion.errors import DataError, EmbeddingExpansionError, InvalidInput, InvalidType, RunError
from embedding_expansion.inference.export import export
from embedding_expansion.inference.indexing import index_images


def network(width: int = 5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 18 * 18, width))


STEPS: tuple[Any, ...] = (v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True))
TRANSFORM = v2.Compose([v2.Resize(20), v2.CenterCrop(20), *STEPS, v2.Normalize([0.4] * 3, [0.3] * 3)])


@pytest.fixture
def embedder() -> Embedder:
    return Embedder(network(), TRANSFORM, device="cpu", batch_size=4)


def expected(files: list[Path], module: nn.Module, flip: bool = False) -> np.ndarray:
    images = torch.stack([TRANSFORM(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        rows = functional.normalize(module.eval()(images), dim=1)
        if flip:
            rows = functional.normalize(rows + functional.normalize(module(images.flip(-1)), dim=1), dim=1)
    return rows.numpy()


@pytest.mark.parametrize("flip", [False, True])
def test_it_embeds_as_the_module_does(embedder: Embedder, files: list[Path], flip: bool) -> None:
    np.testing.assert_allclose(embedder.embed(files, flip=flip), expected(files, network(), flip), atol=1e-5)
    assert embedder.dimensions == 5


def test_a_preset_of_torchvision_is_a_transform(files: list[Path]) -> None:
    preset = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.transforms()
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    found = Embedder(module, preset, device="cpu").embed(files[:2])
    rows = module(torch.stack([preset(Image.open(file)) for file in files[:2]]))
    np.testing.assert_allclose(found, functional.normalize(rows, dim=1).numpy(), atol=1e-5)


def test_images_of_all_kinds_are_taken_and_broken_ones_are_named(embedder: Embedder, files: list[Path]) -> None:
    pixels = np.array(Image.open(files[0]))
    broken: dict[int, str] = {}
    found = embedder.embed([files[0], b"no image", pixels, torch.from_numpy(pixels).permute(2, 0, 1)], broken=broken)
    assert list(broken) == [1]
    assert np.array_equal(found, np.stack([found[0]] * 3))
    with pytest.raises(DataError, match=r"images\[1\]"):
        embedder.embed([files[0], b"no image"])
    with pytest.raises(DataError, match="factor of 100"):
        embedder.embed(np.zeros((1, 101, 3), np.uint8))
    assert embedder.embed([]).shape == (0, 5)


def test_its_vectors_make_an_index_that_a_collection_searches(
    embedder: Embedder, files: list[Path], tmp_path: Path
) -> None:
    with create_index(tmp_path / "index", embedder.dimensions) as index:
        index.add([Item(str(file), file.parent.name) for file in files], embedder.embed(files))
        collection = Collection(index, embedder)
        (answer,) = collection.search(collection.embed(files[3]), 1)
        assert answer.matches[0].item.path == str(files[3])


def test_it_is_not_stored(embedder: Embedder, photographs: Path, tmp_path: Path) -> None:
    tries: list[Callable[[], object]] = [
        lambda: index_images(embedder, [photographs], tmp_path / "index"),
        lambda: export(embedder, "safetensors", tmp_path / "out"),
    ]
    for store in tries:
        with pytest.raises(InvalidInput, match=r"cannot be stored, .*; add its vectors to an Index yourself, open"):
            store()
    assert not any(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match="a transform of yours"):
        _ = embedder.image_size
    assert embedder.describe()["format"] == "module"
    assert (embedder.assumed, embedder.thresholds) == ("", {})


def no_transform(image: Image.Image) -> Tensor:
    raise ValueError("of no use\nat all")


@pytest.mark.parametrize(
    ("module", "transform", "error", "sentence"),
    [
        ("runs/birds", TRANSFORM, InvalidType, r"module is a str; .*Embedder\.load"),
        (network(), None, InvalidType, "transform is a NoneType; pass a function"),
        (network(), no_transform, InvalidInput, r"fails on a Pillow image \(of no use at all\)"),
        (network(), v2.PILToTensor(), InvalidType, r"gives torch.uint8 \(3, 256, 256\); let it end"),
        (network(), lambda image: image, InvalidType, "gives Image; let it end"),
        (nn.Identity(), TRANSFORM, InvalidInput, r"gives a tensor \(1, 3, 20, 20\) for 1 images; pass one that gives"),
        (
            nn.LSTM(20, 2),
            lambda image: torch.ones(1, 2, 20).squeeze(0)[None],
            InvalidInput,
            r"fails on an image of shape \(1, 2, 20\) \(",
        ),
    ],
)
def test_what_cannot_embed_is_refused_in_one_sentence(
    module: Any, transform: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as refused:
        Embedder(module, transform, device="cpu")
    assert isinstance(refused.value, EmbeddingExpansionError)
    assert "\n" not in str(refused.value)


def test_a_transform_that_keeps_the_shape_of_images_is_refused_with_two_shapes(files: list[Path]) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    embedder = Embedder(module, v2.Compose(STEPS), device="cpu")
    assert embedder.embed([np.zeros((8, 9, 3), np.uint8)]).shape == (1, 3)
    with pytest.raises(InvalidInput, match=r"different shapes \(\(3, 7, 8\), \(3, 8, 9\)\); let it cut them"):
        embedder.embed([np.zeros((8, 9, 3), np.uint8), np.zeros((7, 8, 3), np.uint8)])


def test_embeddings_that_are_not_finite_are_refused(files: list[Path]) -> None:
    module = network()
    module[0].bias.data[:] = float("nan")
    with pytest.raises(RunError, match="NaN or infinite"):
        Embedder(module, TRANSFORM, device="cpu").embed(files[0])
