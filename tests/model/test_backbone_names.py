"""Backbones of every kind by name, without a head: what comes out is what the library itself computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from embedding_expansion.errors import InvalidInput
from embedding_expansion.model.backbones import TokensAsMap, build_backbone
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.model.plain_backbone import open_backbone


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [  # a class token, attention pooling as in SigLIP, a projection that counts as classifier, a large own size
        ("test_vit", 160, 64),
        ("test_vit", 96, 64),
        ("test_vit3", 160, 96),
        ("test_resnet", 160, 96),
        ("test_convnext", 160, 64),
        ("test_efficientnet", 160, 256),
        ("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", 64, 256),
        ("vit_small_patch14_dinov2.lvd142m", 56, 384),
    ],
)
def test_the_embedding_of_a_timm_model_is_its_pooled_features(name: str, size: int, width: int) -> None:
    model = EmbeddingModel(f"timm/{name}", "none", mean=[0.4] * 3, std=[0.2] * 3).eval()
    assert model.dimensions == width
    dynamic = {} if size in (160, 224) else {"dynamic_img_size": True}
    own = timm.create_model(name, **dynamic)
    own.reset_classifier(0)
    own.eval().load_state_dict(model.trunk.state_dict())
    pixels = images(size)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), own((pixels / 255 - 0.4) / 0.2))


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf"])
def test_the_embedding_of_a_torchvision_model_is_what_its_classifier_sees(name: str) -> None:
    own = torchvision.models.get_model(name, weights=None).eval()
    layer = "fc" if hasattr(own, "fc") else "classifier"
    setattr(own, layer, nn.Identity())
    model = EmbeddingModel(name, "none", mean=[0.0] * 3, std=[1.0] * 3).eval()
    model.trunk.load_state_dict({key: own.state_dict()[key] for key in model.trunk.state_dict()})
    pixels = images(64)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), own(pixels / 255), rtol=1e-4, atol=1e-5)


def test_every_name_has_a_size_a_crop_and_features_that_can_be_pooled() -> None:
    """On the meta device, where a network costs no memory. A sample of the names; by hand all of them are tried."""
    large = {"vit_h_14": 518, "swin_v2_t": 256, "timm/vit_so400m_patch14_siglip_384": 384, "timm/inception_v3": 299}
    for name in (*large, "maxvit_t", "timm/vit_base_patch16_siglip_224.webli", "timm/resnet50_clip.openai"):
        with torch.device("meta"):
            found = build_backbone(name)
        assert (found.image_size, found.width > 100) == (large.get(name, 224), True)
        assert found.crop is not None


def test_a_sequence_of_tokens_is_pooled_like_a_map() -> None:
    tokens = torch.rand(2, 5, 7)
    network = nn.Module()
    network.forward = lambda images: tokens  # type: ignore[method-assign]
    torch.testing.assert_close(TokensAsMap(network)(tokens).mean(dim=(2, 3)), tokens.mean(dim=1))


def test_a_file_may_lack_the_classifier_or_have_another(tmp_path: Path) -> None:
    own = torchvision.models.mobilenet_v3_small(num_classes=7)
    whole = own.state_dict()
    bare = {key: value for key, value in whole.items() if not key.startswith("classifier")}
    for state in (whole, bare):
        save_file(state, tmp_path / "weights.safetensors")
        found = build_backbone("mobilenet_v3_small", weights=str(tmp_path / "weights.safetensors"))
        assert all(torch.equal(value, whole[key]) for key, value in found.trunk.state_dict().items())
    del bare["features.0.0.weight"]
    save_file(bare, tmp_path / "weights.safetensors")
    with pytest.raises(InvalidInput, match=r"1 entries differ, the first is 'features\.0\.0\.weight'"):
        build_backbone("mobilenet_v3_small", weights=str(tmp_path / "weights.safetensors"))


def test_weights_of_googlenet_are_those_that_torchvision_has_from_tensorflow(tmp_path: Path) -> None:
    """The input of these weights is converted in the network itself, from ImageNet's convention to 0.5."""
    own = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=True).eval()
    own.fc = nn.Identity()
    save_file(own.state_dict(), tmp_path / "weights.safetensors")
    found = open_backbone("googlenet", weights=tmp_path / "weights.safetensors", image_size=64)
    pixels, preset = images(64), torchvision.models.GoogLeNet_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preset.mean, preset.std))
    with torch.no_grad():
        torch.testing.assert_close(found.model(pixels), own((pixels / 255 - mean) / std), rtol=1e-4, atol=1e-5)


def test_a_size_that_the_backbone_does_not_take_is_refused() -> None:
    with pytest.raises(
        InvalidInput, match=r"test_vit takes no images of 30 pixels .*; pass another image_size, or omit"
    ):
        open_backbone("timm/test_vit", image_size=30)
    with pytest.raises(InvalidInput, match="image_size is 5000"):
        open_backbone("timm/test_vit", image_size=5000)
    with pytest.raises(InvalidInput, match="linear is for vectors"):
        open_backbone("linear")


def test_random_weights_are_said_and_are_the_same_each_time() -> None:
    before = torch.random.get_rng_state()
    first, second = (open_backbone("timm/test_resnet", image_size=32) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.assumed.startswith("timm/test_resnet has random weights")
    pixels = images(32)
    assert torch.equal(first.model(pixels), second.model(pixels))


def test_nothing_is_left_to_learn_without_a_head_and_with_a_frozen_backbone() -> None:
    with pytest.raises(InvalidInput, match="nothing would learn; pass only one"):
        EmbeddingModel("conv4", "none", freeze_backbone=True)
    model = EmbeddingModel("conv4", "none").train()
    model(images(32)).square().sum().backward()
    assert model.dimensions == 64
    assert all(parameter.grad is not None for parameter in model.parameters())
