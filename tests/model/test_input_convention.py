"""Where the mean, the deviation and the size of a backbone's images come from, and what is said where nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import DataError
from embedding_expansion.model.input_convention import InputConvention, convention_of_timm, preprocessing_of
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.model.plain_backbone import open_backbone

NAME = "timm/test_vit"
Save: TypeAlias = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes weights of a small ViT of timm, with metadata, and JSON files beside them."""
    state = timm.create_model("test_vit").state_dict()

    def write(metadata: dict[str, str] | None = None, **beside: Any) -> Path:
        save_file(state, tmp_path / "weights.safetensors", metadata)
        for name, content in beside.items():
            (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / "weights.safetensors"

    return write


def opened(path: Path, **given: Any) -> tuple[list[float], list[float], Preprocessing, str]:
    found = open_backbone(NAME, weights=path, **given)
    assert found.config.mean is not None
    assert found.config.std is not None
    return found.config.mean, found.config.std, found.preprocessing, found.assumed


METADATA = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]", "image_size": "96", "crop_pct": "0.75"}


def test_the_metadata_of_the_file_comes_before_a_file_beside_it(save: Save) -> None:
    other = {"mean": [0.7] * 3, "std": [0.7] * 3, "image_size": 32, "crop_pct": 1.0}
    mean, std, preprocessing, assumed = opened(save(METADATA, weights=other, config={"pretrained_cfg": other}))
    assert (mean, std, preprocessing) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], Preprocessing(96, 128))
    assert not assumed


def test_an_entry_that_one_place_lacks_comes_from_the_next(save: Save) -> None:
    hub = {
        "architecture": "test_vit",
        "pretrained_cfg": {"std": [0.9] * 3, "input_size": [3, 64, 64], "mean": [0.8] * 3},
    }
    beside = {"std": [0.7, 0.7, 0.7]}
    mean, std, preprocessing, assumed = opened(save({"mean": "[0.1, 0.1, 0.1]"}, weights=beside, config=hub))
    assert (mean, std) == ([0.1] * 3, [0.7] * 3)
    assert preprocessing == Preprocessing(64, int(64 / 0.95))  # crop_pct is timm's
    assert not assumed


def test_options_come_before_everything(save: Save) -> None:
    given = {"mean": [0.25] * 3, "std": [0.75] * 3, "image_size": 48}
    assert opened(save(METADATA), **given) == ([0.25] * 3, [0.75] * 3, Preprocessing(48, 64), "")


def test_what_nobody_says_is_assumed_and_said(save: Save) -> None:
    path, entries = save(), timm.create_model("test_vit").pretrained_cfg
    mean, std, preprocessing, assumed = opened(path)
    assert (mean, std) == ([*entries["mean"]], [*entries["std"]])
    assert preprocessing == Preprocessing(160, int(160 / 0.95))
    assert assumed == (
        f"weights.safetensors does not say how its images are normalised; assumed mean {mean} and std {std} of timm's "
        "test_vit.r160_in1k; pass mean and std if that is wrong"
    )
    assert "; pass std if" in opened(path, mean=[0.5] * 3)[3]
    assert not opened(path, mean=[0.5] * 3, std=[0.5] * 3)[3]


def test_a_model_with_a_head_says_what_was_assumed_as_well(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file(torchvision.models.mobilenet_v3_small().state_dict(), path)
    assert "of torchvision's mobilenet_v3_small" in EmbeddingModel("mobilenet_v3_small", weights=str(path)).assumed
    assert not EmbeddingModel("mobilenet_v3_small").assumed
    save_file(torchvision.models.mobilenet_v3_small().state_dict(), path, {"mean": "[0, 0, 0]", "std": "[1, 1, 1]"})
    model = EmbeddingModel("mobilenet_v3_small", weights=str(path))
    assert not model.assumed
    assert (model.mean.sum(), model.std.sum()) == (0, 3)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"mean": "0.5 0.5 0.5"}, "the metadata of .* says that mean is '0.5 0.5 0.5', but it must be a JSON list"),
        ({"mean": "[]"}, "mean is"),
        ({"mean": '["a", 1, 2]'}, "mean is"),
        ({"mean": "[NaN, 0, 0]"}, "mean is"),
        ({"std": "[0.5, 0.5, 0]"}, "std is '.*', but it must be a JSON list of numbers above 0"),
        ({"image_size": "-3"}, "image_size is '-3', but it must be a whole number of pixels"),
        ({"image_size": "true"}, "image_size is 'True'"),
        ({"crop_pct": "70"}, "crop_pct is '70', but it must be a number from"),
    ],
)
def test_broken_metadata_is_one_sentence(metadata: dict[str, str], sentence: str, save: Save) -> None:
    with pytest.raises(DataError, match=sentence):
        opened(save(metadata))


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"pretrained_cfg": 3}', '{"mean": {}}'])
def test_a_broken_file_beside_the_weights_is_named(content: str, save: Save) -> None:
    with pytest.raises(DataError, match=r"weights\.json"):
        opened(save(weights=content))


def test_a_config_of_something_else_says_nothing(save: Save) -> None:
    assert opened(save(config={"model_type": "bert"}))[3]


@pytest.mark.parametrize("name", ["test_vit", "vit_base_patch16_siglip_224", "vit_small_patch14_dinov2", "resnet50"])
def test_the_crop_is_that_of_timms_own_transform(name: str) -> None:
    entries = timm.models.get_pretrained_cfg(name).to_dict()
    resize, crop = create_transform(**resolve_data_config(pretrained_cfg=entries)).transforms[:2]
    found = convention_of_timm(entries)
    assert found.image_size is not None
    preprocessing = preprocessing_of(found.image_size, found.crop)
    assert (preprocessing.size, preprocessing.short_side) == (crop.size[0], resize.size)


def test_weights_for_squashed_images_get_squashed_images_and_unknown_ones_the_crop_of_training() -> None:
    assert convention_of_timm({"crop_mode": "squash", "crop_pct": 0.9}).crop == "squash"
    assert preprocessing_of(64, "squash") == Preprocessing(64)
    assert preprocessing_of(64, None) == Preprocessing.of(64, "crop_flip")
    assert preprocessing_of(64, 1.15) == Preprocessing(64, 64)
    assert InputConvention().completed_by(InputConvention(crop=0.5)) == InputConvention(crop=0.5)


def test_the_weights_of_the_hub_in_other_words_fit_as_timm_reads_them(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=0).eval()
    state = {"mask_token": torch.zeros(1, 64), **model.state_dict()}  # an entry of DINOv2's own program
    save_file(state, tmp_path / "dino.safetensors")
    found = open_backbone(NAME, weights=tmp_path / "dino.safetensors").model
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(found(pixels), model((pixels / 255 - found.mean) / found.std))
