"""Backbones by name: the small conv net, torchvision's models, timm's.

linear, mlp     of vectors, which are images of one pixel: nothing, or one hidden layer, before the head
conv4           four blocks of conv-BN-ReLU-pool with 64 channels, for images of 32 x 32
googlenet, ...  every classification model of torchvision, its classifier taken off
timm/NAME       every model of timm, where timm is installed
open_clip/NAME  the image tower of every pair of open_clip, where open_clip is installed, with its projection

torchvision and timm take longer to import than torch does, so each is imported for its own backbones only.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.model import towers
from embedding_expansion.model.backbone_names import OF_VECTORS, unknown_timm, unknown_torchvision
from embedding_expansion.model.input_convention import Crop, InputConvention, convention_of_timm, read_convention

#: The units of the hidden layer of "mlp".
HIDDEN = 256

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, and the input that it is made for.

    Attributes:
        trunk: normalised images (b, c, h, w) -> feature map (b, width, h', w'), or (b, width).
        width: the number of features.
        spatial: whether the output is a feature map.
        image_size: the side of the square images in pixels.
        mean: of the pixels in 0..1.
        std: their standard deviation.
        crop: how the square is made of an image; None if that is not known.
        weights: the file of the weights; None if they are random or were fetched.
        unsaid: "mean" and "std", if they are neither known from the file nor from a file beside it.
        library: where a value comes from that the file does not say.
    """

    trunk: nn.Module
    width: int
    spatial: bool
    image_size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop: Crop | None = None
    weights: str | None = None
    unsaid: tuple[str, ...] = ()
    library: str = "ImageNet"

    def assumed(self, given: Set[str]) -> str:
        """What had to be assumed about the input, in one sentence; empty if nothing was.

        Args:
            given: which of mean and std the user has passed.
        """
        names = [name for name in self.unsaid if name not in given]
        if self.weights is None or not names:
            return ""
        values = " and ".join(f"{name} {[round(value, 4) for value in getattr(self, name)]}" for name in names)
        return (
            f"{Path(self.weights).name} does not say how its images are normalised; assumed {values} of "
            f"{self.library}; pass {' and '.join(names)} if that is wrong"
        )


def build_backbone(name: str, *, channels: int = 3, pretrained: bool = False, weights: str | None = None) -> Backbone:
    """Builds a backbone by name.

    Args:
        name: "conv4", a torchvision name or "timm/NAME"; for vectors "linear" or "mlp".
        channels: colour channels of the input; conv4 and timm take any, torchvision 3.
        pretrained: fetch ImageNet weights through the library that has the backbone.
        weights: a local .safetensors file with the network's own state dict, loaded strictly, except that its
            classifier may be missing or of another size. What it says about its input (see `input_convention`) replaces
            what the library says.

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
        return _backbone(trunk, (64, 2, 2), InputConvention(IMAGENET_MEAN, IMAGENET_STD, 32), weights, "ImageNet")
    if name in OF_VECTORS:
        return _of_vectors(name, channels, pretrained, weights)
    if name.startswith("timm/"):
        return _timm(name, channels, pretrained, weights)
    if name.startswith(towers.PREFIX):
        return _open_clip(name, channels, pretrained, weights)
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


#: The backbones that a run takes if no other is named and their weights are in torch's cache, the preferred one first.
PREFERRED = ("resnet50", "resnet18", "mobilenet_v2")


def cached_backbone() -> str | None:
    """The first of `PREFERRED` whose ImageNet weights torchvision has fetched before; None without one."""
    from torchvision import models

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    entries: dict[str, Any] = {name: models.get_model_weights(name) for name in PREFERRED}
    files = {name: entry.DEFAULT.url.rpartition("/")[2] for name, entry in entries.items()}
    return next((name for name, file in files.items() if (folder / file).is_file()), None)


# What stands behind the feature map in torchvision's models; everything before it runs in the order it is defined in.
_BEHIND = ("avgpool", "classifier", "fc", "dropout", "flatten", "head", "heads")
_AUXILIARY = ("aux1", "aux2", "AuxLogits")
#: Models whose weights torchvision has from TensorFlow. Its own forward converts the input, which is taken off here.
_FROM_TENSORFLOW, _TENSORFLOW = ("googlenet", "inception_v3"), (0.5, 0.5, 0.5)


def _torchvision(name: str, channels: int, pretrained: bool, weights: str | None) -> Backbone:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_torchvision(name, known)
    if channels != 3:
        raise InvalidInput(f"channels is {channels}, but torchvision's {name} takes 3; leave channels out")
    entry: Any = models.get_model_weights(name)
    preset = entry.DEFAULT.transforms()
    size = preset.crop_size[0]
    settings: dict[str, Any] = {}
    if name in _FROM_TENSORFLOW:  # their side outputs are taken off below; the fetched weights have them
        settings = {"aux_logits": True} if pretrained else {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        settings = {"image_size": size}
    try:
        model = models.get_model(name, weights=entry.DEFAULT if pretrained else None, **settings)
    except OSError as error:
        raise DataError(f"the weights of {name} cannot be fetched ({error}); go online or pass a local file") from error
    whole = model.state_dict().keys()
    trunk = _without_classifier(model)
    _load(trunk, weights, name, _prefixes(whole - trunk.state_dict().keys()))
    mean, std = tuple(preset.mean), tuple(preset.std)
    if name in _FROM_TENSORFLOW and (pretrained or weights is not None):
        mean = std = _TENSORFLOW
    convention = InputConvention(mean, std, size, crop=min(1.0, size / preset.resize_size[0]))
    return _backbone(trunk, _shape(trunk, channels, size), convention, weights, f"torchvision's {name}")


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
        raise unknown_timm(short, timm.list_models())
    try:
        model = _created(lambda **settings: timm.create_model(short, pretrained, in_chans=channels, **settings))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name} cannot be made ({reason}); go online or pass a local file of weights") from error
    entries, whole = model.pretrained_cfg, model.state_dict().keys()
    if hasattr(model, "reset_classifier"):  # encoders of language models have none
        model.reset_classifier(0)
    heads = entries.get("classifier") or ()
    layers = {heads} if isinstance(heads, str) else set(heads)
    _load(model, weights, name, layers | _prefixes(whole - model.state_dict().keys()), _converter(model))
    convention = convention_of_timm(entries)
    known = ".".join(filter(None, (short.split(".")[0], entries.get("tag"))))
    shape = _shape(model, channels, convention.image_size or 224)
    if len(shape) == 2:
        return _backbone(TokensAsMap(model), (shape[1], shape[0], 1), convention, weights, f"timm's {known}")
    return _backbone(model, shape, convention, weights, f"timm's {known}")


def _open_clip(name: str, channels: int, pretrained: bool, weights: str | None) -> Backbone:
    if channels != 3:
        raise InvalidInput(f"{name} takes images of 3 channels, not of {channels}; omit channels")
    pair = towers.open_pair(name, pretrained=pretrained, weights=weights)
    convention = towers.convention_of(name, pair)
    trunk = towers.ImageTower(pair.visual)
    shape = _shape(trunk, channels, convention.image_size or 224)
    return _backbone(trunk, shape, convention, weights, name)


class TokensAsMap(nn.Module):
    """A network whose output is a sequence of tokens, (b, t, width), as one with a feature map (b, width, t, 1)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Gives the tokens as a map."""
        tokens: Tensor = self.network(images)
        return tokens.transpose(1, 2).unsqueeze(-1)


def _created(create: Callable[..., Any]) -> Any:
    """Makes a model of timm that takes images of any size, as far as its kind can."""
    try:
        model = create(dynamic_img_size=True)
    except TypeError:  # convolutions, which take any size anyway, and some transformers
        return create()
    size = model.pretrained_cfg["input_size"][-1]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    return model if size % patch[0] == 0 else create()  # an odd size, which such a model takes only as its own


#: Turns the state dict of the original authors' program into timm's.
_Converter: TypeAlias = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _converter(model: nn.Module) -> _Converter | None:
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return None if convert is None else lambda state: convert(state, model)


def _shape(trunk: nn.Module, channels: int, size: int) -> tuple[int, ...]:
    """The shape of the output for one image, found by running an empty one through."""
    trunk.eval()
    with torch.no_grad():
        found = trunk(torch.zeros(1, channels, size, size))
    trunk.train()
    if not isinstance(found, Tensor) or found.ndim not in (2, 3, 4):
        kind = f"the shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"the type {type(found).__name__}"
        raise InvalidInput(f"the features of this backbone have {kind}, which cannot be pooled; pass another backbone")
    return tuple(found.shape[1:])


def _backbone(
    trunk: nn.Module, shape: tuple[int, ...], convention: InputConvention, weights: str | None, library: str
) -> Backbone:
    """Puts a backbone together. What its weights say about their input comes before what its library says."""
    said = InputConvention() if weights is None else read_convention(Path(weights))
    found = said.completed_by(convention)
    return Backbone(
        trunk,
        width=shape[0],
        spatial=len(shape) == 3,
        image_size=found.image_size or 224,
        mean=found.mean or IMAGENET_MEAN,
        std=found.std or IMAGENET_STD,
        crop=found.crop,
        weights=weights,
        unsaid=tuple(name for name in ("mean", "std") if getattr(said, name) is None),
        library=library,
    )


def _prefixes(keys: Set[str]) -> set[str]:
    """The names of the layers to which entries of a state dict belong."""
    return {key.rpartition(".")[0] for key in keys} - {""}


def _load(
    trunk: nn.Module,
    weights: str | None,
    name: str,
    classifier: Set[str] = frozenset(),
    convert: _Converter | None = None,
) -> None:
    """Loads weights strictly into a network whose classifier was taken off.

    Args:
        trunk: the network.
        weights: a .safetensors file, or None to keep the weights as they are.
        name: the name of the backbone, for errors.
        classifier: the names of the classifier's layers; the file may have entries of them.
        convert: is tried on weights that do not fit.
    """
    if weights is None:
        return
    if not Path(weights).is_file():
        raise DataError(f"there is no file {weights}; pass a .safetensors file with the state dict of {name}")
    try:
        whole = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{weights} cannot be read as safetensors ({error})") from error
    expected = trunk.state_dict()
    state = _of_trunk(whole, expected, classifier)
    odd = _odd(state, expected)
    if odd and convert is not None:
        try:
            converted = _of_trunk(convert(dict(whole)), expected, classifier)
        except Exception:  # of entries that are not what a converter expects, each fails in its own way
            converted = {}
        if not _odd(converted, expected):
            state, odd = converted, []
    if odd:
        raise InvalidInput(f"{weights} does not fit {name}: {len(odd)} entries differ, the first is {odd[0]!r}")
    trunk.load_state_dict(state)


def _of_trunk(state: dict[str, Tensor], expected: dict[str, Tensor], classifier: Set[str]) -> dict[str, Tensor]:
    """The entries of a state dict without those of side outputs and of the classifier."""
    others = (*_AUXILIARY, *(f"{layer}." for layer in classifier))
    return {key: tensor for key, tensor in state.items() if key in expected or not key.startswith(others)}


def _odd(state: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """The entries that only one of two state dicts has, or that differ in their shape."""
    differ = [key for key in sorted(state.keys() & expected.keys()) if state[key].shape != expected[key].shape]
    return sorted(state.keys() ^ expected.keys()) + differ
