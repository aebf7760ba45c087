"""Backbones by name: the small conv net, torchvision's models, timm's.

linear, mlp     of vectors, which are images of one pixel: nothing, or one hidden layer, before the head
conv4           four blocks of conv-BN-ReLU-pool with 64 channels, for images of 32 x 32
googlenet, ...  every classification model of torchvision, its classifier taken off
timm/NAME       every model of timm, where timm is installed

torchvision and timm take longer to import than torch does, so each is imported for its own backbones only.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from embedding_expansion.errors import DataError, InvalidInput, UnknownName

#: The backbones for vectors, and the units of the hidden layer of "mlp".
OF_VECTORS, HIDDEN = ("linear", "mlp"), 256

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, and the input that it is made for."""

    trunk: nn.Module  # normalised images (b, c, h, w) -> feature map (b, width, h', w'), or (b, width)
    width: int
    spatial: bool  # whether the output is a feature map
    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def build_backbone(name: str, *, channels: int = 3, pretrained: bool = False, weights: str | None = None) -> Backbone:
    """Builds a backbone by name.

    Args:
        name: "conv4", a torchvision name or "timm/NAME"; for vectors "linear" or "mlp".
        channels: colour channels of the input; conv4 and timm take any, torchvision 3.
        pretrained: fetch ImageNet weights through the library that has the backbone.
        weights: a local .safetensors file with the network's own state dict (classifier included), loaded strictly.

    Raises:
        UnknownName: there is no such backbone; says the nearest.
        InvalidInput: options that exclude each other, a missing library, or weights of another network.
        DataError: weights that cannot be fetched or read.
    """
    if pretrained and weights is not None:
        raise InvalidInput("both pretrained and weights are given; pass one of them")
    if name == "conv4":
        if pretrained:
            raise InvalidInput("conv4 has no pretrained weights; train it from scratch, or name another backbone")
        trunk = conv4(channels)
        _load(trunk, weights, name)
        return Backbone(trunk, width=64, spatial=True, image_size=32)
    if name in OF_VECTORS:
        return _of_vectors(name, channels, pretrained, weights)
    if name.startswith("timm/"):
        return _timm(name, channels, pretrained, weights)
    return _torchvision(name, channels, pretrained, weights)


def conv4(channels: int = 3, width: int = 64) -> nn.Sequential:
    """Four blocks of 3x3 convolution, batch norm, ReLU and 2x2 maximum: a 32 x 32 image becomes a 2 x 2 map.

    Source: the embedding net of Vinyals et al., "Matching Networks for One Shot Learning", 2016.
    """
    blocks = []
    for inputs in (channels, width, width, width):
        layers = (nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
        blocks.append(nn.Sequential(*layers))
    return nn.Sequential(*blocks)


def _of_vectors(name: str, dimensions: int, pretrained: bool, weights: str | None) -> Backbone:
    if pretrained:
        raise InvalidInput(f"{name} has no pretrained weights; train it from scratch")
    hidden = [nn.Linear(dimensions, HIDDEN), nn.ReLU()] if name == "mlp" else []
    trunk = nn.Sequential(nn.Flatten(), *hidden)
    _load(trunk, weights, name)
    width = HIDDEN if hidden else dimensions
    return Backbone(trunk, width, spatial=False, image_size=1, mean=(0.0,) * dimensions, std=(1.0,) * dimensions)


# What stands behind the feature map in torchvision's models; everything before it runs in the order it is defined in.
_BEHIND = ("avgpool", "classifier", "fc", "dropout", "flatten", "head", "heads")
_AUXILIARY = ("aux1", "aux2", "AuxLogits")


def _torchvision(name: str, channels: int, pretrained: bool, weights: str | None) -> Backbone:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UnknownName("backbone", name, _nearest(name, ["conv4", *known]))
    if channels != 3:
        raise InvalidInput(f"channels is {channels}, but torchvision's {name} takes 3; leave channels out")
    entry: Any = models.get_model_weights(name)
    settings: dict[str, bool] = {}
    if name in ("googlenet", "inception_v3"):  # their side outputs are taken off below; the fetched weights have them
        settings = {"aux_logits": True} if pretrained else {"aux_logits": False, "init_weights": True}
    try:
        model = models.get_model(name, weights=entry.DEFAULT if pretrained else None, **settings)
    except OSError as error:
        raise DataError(f"the weights of {name} cannot be fetched ({error}); go online or pass a local file") from error
    _load(model, weights, name)
    preset = entry.DEFAULT.transforms()
    mean, std = tuple(preset.mean), tuple(preset.std)
    if pretrained and getattr(model, "transform_input", False):
        mean = std = (0.5, 0.5, 0.5)  # these weights come from TensorFlow; their own forward converts the input
    size = preset.crop_size[0]
    return _measured(_without_classifier(model), size, channels, mean, std)


def _without_classifier(model: nn.Module) -> nn.Module:
    from torchvision.models import DenseNet

    children = OrderedDict(model.named_children())
    if "encoder" in children or "blocks" in children:  # transformers: their forward is more than a chain
        setattr(model, "heads" if "heads" in children else "classifier", nn.Identity())
        return model
    chain: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in children.items():
        if name in _BEHIND:
            break
        if name not in _AUXILIARY:
            chain[name] = child
    if isinstance(model, DenseNet):
        chain["relu"] = nn.ReLU()  # its forward has one behind the features
    return nn.Sequential(chain)


def _timm(name: str, channels: int, pretrained: bool, weights: str | None) -> Backbone:
    try:
        import timm
    except ImportError as error:
        raise InvalidInput(f"{name} needs the library timm; pip install 'embedding-expansion[timm]'") from error
    short = name.removeprefix("timm/")
    if short.split(".")[0] not in timm.list_models():
        raise UnknownName("timm backbone", short, _nearest(short, timm.list_models()))
    try:
        model: Any = timm.create_model(short, pretrained=pretrained, in_chans=channels)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name} cannot be made ({reason}); go online or pass a local file of weights") from error
    _load(model, weights, name)
    wanted = model.pretrained_cfg
    model.reset_classifier(0)
    return _measured(model, wanted["input_size"][-1], channels, tuple(wanted["mean"]), tuple(wanted["std"]))


def _measured(trunk: nn.Module, size: int, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Backbone:
    """Finds the shape of the output by running one empty image through."""
    trunk.eval()
    with torch.no_grad():
        shape = trunk(torch.zeros(1, channels, size, size)).shape
    trunk.train()
    return Backbone(trunk, width=shape[1], spatial=len(shape) == 4, image_size=size, mean=mean, std=std)


def _nearest(name: str, known: list[str]) -> list[str]:
    """The few names that an error should show: of hundreds, those that are near."""
    return difflib.get_close_matches(name, known, n=4, cutoff=0.4) or ["conv4", "googlenet", "resnet50"]


def _load(model: nn.Module, weights: str | None, name: str) -> None:
    if weights is None:
        return
    if not Path(weights).is_file():
        raise DataError(f"there is no file {weights}; pass a .safetensors file with the state dict of {name}")
    try:
        state = {key: tensor for key, tensor in load_file(weights).items() if not key.startswith(_AUXILIARY)}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{weights} cannot be read as safetensors ({error})") from error
    expected = model.state_dict()
    odd = sorted(state.keys() ^ expected.keys())
    odd += [key for key in sorted(state.keys() & expected.keys()) if state[key].shape != expected[key].shape]
    if odd:
        raise InvalidInput(f"{weights} does not fit {name}: {len(odd)} entries differ, the first is {odd[0]!r}")
    model.load_state_dict(state)
