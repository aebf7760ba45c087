"""The model: input convention, pooling, what is frozen, weights, and backbones by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from embedding_expansion.errors import DataError, InvalidInput, InvalidType, UnknownName
from embedding_expansion.model.backbones import build_backbone, conv4
from embedding_expansion.model.network import EmbeddingModel


def images(b: int = 4, c: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (b, c, size, size), dtype=torch.uint8)


def test_the_model_is_normalisation_backbone_pooling_and_head() -> None:
    model = EmbeddingModel("conv4", 5, mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]).eval()
    pixels = images()
    normalised = torch.stack(
        [(pixels[:, k] / 255 - m) / s for k, (m, s) in enumerate(((0.1, 0.5), (0.2, 0.6), (0.3, 0.7)))], 1
    )
    expected = model.trunk(normalised).flatten(2).mean(2) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(pixels), expected)


def test_embed_gives_unit_rows_without_gradient_and_leaves_the_mode_as_it_was() -> None:
    model = EmbeddingModel("conv4", 5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    embeddings = model.embed(images())
    assert model.training
    assert not embeddings.requires_grad
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_grey_images_are_repeated_for_a_colour_model_and_colour_images_averaged_for_a_grey_one() -> None:
    grey = images(c=1)
    colour = EmbeddingModel("conv4", 5, channels=3).eval()
    torch.testing.assert_close(colour(grey), colour(grey.expand(-1, 3, -1, -1)))
    one = EmbeddingModel("conv4", 5, channels=1).eval()
    torch.testing.assert_close(one(grey), one(grey.expand(-1, 3, -1, -1)))


def test_the_head_starts_with_xavier_weights_and_no_bias() -> None:
    model = EmbeddingModel("conv4", 512)
    bound = (6 / (64 + 512)) ** 0.5
    assert bound * 0.95 < model.head.weight.abs().max() <= bound
    assert not model.head.bias.any()


def test_generalised_mean_pooling_is_the_average_at_exponent_1_and_nears_the_maximum() -> None:
    model = EmbeddingModel("conv4", 5, pooling="gem").eval()
    features = torch.rand(2, 64, 3, 3) + 0.1
    with torch.no_grad():
        model.pooling.exponent.fill_(1.0)
        torch.testing.assert_close(model.pooling(features), features.mean(dim=(2, 3)))
        model.pooling.exponent.fill_(60.0)
        torch.testing.assert_close(model.pooling(features), features.amax(dim=(2, 3)), rtol=0.05, atol=0)


def test_frozen_batch_norm_stays_frozen_in_training() -> None:
    model = EmbeddingModel("conv4", 5, freeze_batch_norm=True).train()
    before = [
        (m.running_mean.clone(), m.weight.clone()) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)
    ]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(images()).square().sum().backward()
    optimizer.step()
    after = [(m.running_mean, m.weight) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(before) == 4
    assert all(torch.equal(x, y) for old, new in zip(before, after, strict=True) for x, y in zip(old, new, strict=True))
    assert model.trunk[0][0].weight.grad is not None


def test_a_frozen_backbone_gets_no_gradient_and_the_head_does() -> None:
    model = EmbeddingModel("conv4", 5, freeze_backbone=True).train()
    model(images()).square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"head.weight", "head.bias"}


def test_local_weights_load_strictly_into_a_torchvision_backbone(tmp_path: Path) -> None:
    source = torchvision.models.mobilenet_v3_small(weights=None)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    trunk = build_backbone("mobilenet_v3_small", weights=str(tmp_path / "weights.safetensors")).trunk
    pixels = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(trunk.eval()(pixels), source.eval().features(pixels))


def test_weights_of_another_network_or_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(conv4(3).state_dict(), path)
    with pytest.raises(InvalidInput, match="does not fit mobilenet_v3_small"):
        build_backbone("mobilenet_v3_small", weights=str(path))
    with pytest.raises(InvalidInput, match=r"does not fit conv4: 1 entries differ, the first is '0\.0\.weight'"):
        build_backbone("conv4", channels=1, weights=str(path))
    with pytest.raises(DataError, match="there is no file"):
        build_backbone("conv4", weights=str(tmp_path / "nowhere"))
    path.write_bytes(b"pickle?")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        build_backbone("conv4", weights=str(path))


@pytest.mark.parametrize(
    ("name", "width", "spatial"),
    [
        ("googlenet", 1024, True),
        ("resnet18", 512, True),
        ("squeezenet1_1", 512, True),
        ("swin_t", 768, True),
        ("vit_b_16", 768, False),
        ("timm/mobilenetv3_small_050", 1024, False),
    ],
)
def test_backbones_come_by_name_without_their_classifier(name: str, width: int, spatial: bool) -> None:
    found = build_backbone(name)
    assert (found.width, found.spatial, found.image_size) == (width, spatial, 224)


@pytest.mark.parametrize("name", ["googlenet", "densenet121"])
def test_the_features_of_a_chain_are_those_of_the_whole_network(name: str) -> None:
    settings = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(3)
    whole = torchvision.models.get_model(name, weights=None, **settings).eval()
    found = build_backbone(name)
    found.trunk.load_state_dict({k: v for k, v in whole.state_dict().items() if k in found.trunk.state_dict()})
    pixels = torch.randn(1, 3, 64, 64)
    last = whole.fc if name == "googlenet" else whole.classifier
    torch.testing.assert_close(last(found.trunk.eval()(pixels).mean(dim=(2, 3))), whole(pixels))


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet81", "resnet18"), ("conv5", "conv4"), ("timm/resnt18", "resnet18")]
)
def test_a_mistyped_backbone_comes_back_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{nearest}'"):
        EmbeddingModel(name)


def test_what_the_model_cannot_use_is_refused() -> None:
    model = EmbeddingModel("conv4", 5)
    with pytest.raises(InvalidType, match="uint8"):
        model(images().float())
    with pytest.raises(InvalidInput, match="shape"):
        model(images(c=3)[0])
    with pytest.raises(InvalidInput, match="mean has 2 values"):
        EmbeddingModel("conv4", mean=[0.1, 0.2])
    with pytest.raises(InvalidInput, match="mean has 0 values"):
        EmbeddingModel("conv4", mean=[])
    for mean, std in (([float("nan")] * 3, None), (None, [float("nan")] * 3), (None, [float("inf")] * 3)):
        with pytest.raises(InvalidInput, match="pass numbers"):
            EmbeddingModel("conv4", mean=mean, std=std)
    with pytest.raises(InvalidInput, match="std"):
        EmbeddingModel("conv4", std=[0.1, 0.2, 0.0])
    with pytest.raises(InvalidInput, match="conv4 has no pretrained weights"):
        EmbeddingModel("conv4", pretrained=True)
    with pytest.raises(InvalidInput, match="pools by itself"):
        EmbeddingModel("timm/mobilenetv3_small_050", pooling="gem")
    with pytest.raises(InvalidInput, match="both"):
        EmbeddingModel("resnet18", pretrained=True, weights="x.safetensors")


def test_the_real_mobilenet_weights_fit(real_data: Path) -> None:
    path = real_data / "weights" / "mobilenet_v2_imagenet_torchvision.safetensors"
    model = EmbeddingModel("mobilenet_v2", weights=str(path), mean=[0.5] * 3, std=[0.5] * 3, freeze_batch_norm=True)
    assert model.head.in_features == 1280
    assert next(model.trunk.parameters()).abs().max() > 0.1
