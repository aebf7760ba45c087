"""A backbone as it comes embeds as its library does, and is stored, searched and exported like a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.nn import functional

from embedding_expansion import Collection, Embedder
from embedding_expansion.errors import InvalidInput, InvalidType, StoreError, UnknownName
from embedding_expansion.inference.export import export
from embedding_expansion.inference.index_model import IndexModel, digest_of, model_note
from embedding_expansion.inference.indexing import add_images, index_images
from embedding_expansion.retrieval.index import open_index

NAME = "timm/test_resnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network of timm."""
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    torch.manual_seed(5)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture(scope="module")
def embedder(weights: Path) -> Embedder:
    return Embedder.from_backbone(NAME, weights=weights, mean=[0.5] * 3, std=[0.25] * 3, image_size=48, device="cpu")


def unit(rows: torch.Tensor) -> np.ndarray:
    return functional.normalize(rows, dim=1).detach().numpy()


def test_it_embeds_as_timm_does_with_its_own_transform(weights: Path, files: list[Path]) -> None:
    own = timm.create_model("test_resnet", checkpoint_path=str(weights)).eval()
    own.reset_classifier(0)
    settings = resolve_data_config(pretrained_cfg=own.pretrained_cfg) | {"interpolation": "bilinear"}
    transform = create_transform(**settings)
    with torch.no_grad():
        expected = unit(own(torch.stack([transform(Image.open(file)) for file in files[:5]])))
    found = Embedder.from_backbone(NAME, weights=weights, device="cpu").embed(files[:5])
    assert (found * expected).sum(axis=1).min() > 0.9999
    other = Embedder.from_backbone(NAME, weights=weights, mean=[0] * 3, std=[1] * 3, device="cpu").embed(files[:5])
    assert (other * expected).sum(axis=1).max() < 0.9999


def test_it_embeds_as_torchvision_does_with_its_own_transform(tmp_path: Path, files: list[Path]) -> None:
    own = torchvision.models.shufflenet_v2_x0_5().eval()
    save_file(own.state_dict(), tmp_path / "net.safetensors")
    own.fc = nn.Identity()
    transform = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    with torch.no_grad():
        expected = unit(own(torch.stack([transform(Image.open(file)) for file in files[:3]])))
    found = Embedder.from_backbone("shufflenet_v2_x0_5", weights=tmp_path / "net.safetensors", device="cpu")
    assert (found.embed(files[:3]) * expected).sum(axis=1).min() > 0.9999
    assert (found.preprocessing.size, found.preprocessing.short_side) == (224, 256)


def test_an_index_answers_as_the_backbone_that_built_it(
    embedder: Embedder, photographs: Path, files: list[Path], place: str
) -> None:
    report = index_images(embedder, [photographs], place, flip=True)
    assert report.new == 32
    expected = embedder.embed(files, flip=True)
    with Collection.open(place, device="cpu") as collection:
        queries = collection.embed(files[:6])
        np.testing.assert_allclose(queries, expected[:6], atol=1e-6)  # the last bits may depend on the batch
        for answer, row in zip(collection.search(queries, 5), expected, strict=False):
            nearest = np.argsort(-(expected @ row), kind="stable")[:5]
            assert [match.item.path for match in answer.matches] == [str(files[at]) for at in nearest]
            assert answer.matches[0].item.label == files[nearest[0]].parent.name
        assert collection.embedder.entry("weights_came_from", "start") == "a file net.safetensors"
    assert add_images(place, [photographs], device="cpu").unchanged == 32


def test_two_backbones_that_differ_in_their_input_only_are_two_models(
    weights: Path, photographs: Path, tmp_path: Path
) -> None:
    given = {"mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 32}
    digests = []
    for number, change in enumerate(({}, {"mean": [0.4] * 3}, {"std": [0.4] * 3}, {"image_size": 64}, {})):
        opened = Embedder.from_backbone(NAME, weights=weights, device="cpu", **(given | change))
        export(opened, "safetensors", tmp_path / str(number))
        digests.append(digest_of(tmp_path / str(number)))
        if not number:
            index_images(opened, [photographs], tmp_path / "index")
        elif change:
            with pytest.raises(StoreError, match="holds vectors of the model"):
                index_images(opened, [photographs], tmp_path / "index")
    assert digests[0] == digests[-1]
    assert len(set(digests)) == 4
    with open_index(tmp_path / "index") as index:
        assert model_note(index) == IndexModel(digests[0])


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_an_export_embeds_as_the_backbone_and_tells_the_truth(
    kind: str, weights: Path, files: list[Path], tmp_path: Path
) -> None:
    backbone = Embedder.from_backbone(NAME, weights=weights, std=[0.25] * 3, image_size=48, device="cpu")
    assert export(backbone, kind, tmp_path / "out") < 1e-4
    exported = Embedder.load(tmp_path / "out", device="cpu")
    assert exported.preprocessing == backbone.preprocessing
    np.testing.assert_allclose(exported.embed(files[:7], flip=True), backbone.embed(files[:7], flip=True), atol=1e-5)
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (about["training"], about["measures"], about["embedding"]["dimensions"]) == (None, {}, 96)
    assert about["assumed"] == exported.assumed == backbone.assumed
    assert about["preprocessing"]["mean"] == [*timm.create_model("test_resnet").pretrained_cfg["mean"]]
    assert about["preprocessing"]["std"] == [0.25] * 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"# {NAME} as it comes" in card
    assert "no training, no loss" in card
    assert "a file net.safetensors" in card
    assert f"**Assumed**: {backbone.assumed}." in card
    everything = "".join(path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".yaml"))
    assert str(weights.parent) not in everything + card


def test_what_is_not_known_of_the_weights_is_on_the_object(weights: Path, embedder: Embedder) -> None:
    assert "net.safetensors does not say" in Embedder.from_backbone(NAME, weights=weights, device="cpu").assumed
    assert embedder.assumed == ""
    assert "random weights" in Embedder.from_backbone(NAME, image_size=32, device="cpu").assumed
    assert embedder.describe()["format"] == "backbone"


def test_a_backbone_that_cannot_be_opened_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'test_resnet'"):
        Embedder.from_backbone("timm/test_resnt")
    with pytest.raises(InvalidInput, match="mean has 2 values"):
        Embedder.from_backbone(NAME, mean=[0.1, 0.2])
    with pytest.raises(InvalidType, match=r"std is 0\.5; pass a list of numbers"):
        Embedder.from_backbone(NAME, std=0.5)
    with pytest.raises(InvalidInput, match="batch_size is 0"):
        Embedder.from_backbone(NAME, batch_size=0)
    with pytest.raises(InvalidInput, match="no device"):
        Embedder.from_backbone(NAME, device="tpu9000")
