"""A backbone as it comes: no training and no head, its pooled features are the embedding."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from embedding_expansion.checks import as_limit, shown, validates
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import DataError, InvalidInput, InvalidType
from embedding_expansion.model.backbone_names import OF_VECTORS
from embedding_expansion.model.input_convention import preprocessing_of
from embedding_expansion.model.network import EmbeddingModel, make_model
from embedding_expansion.model.towers import PREFIX, TextTower, open_pair
from embedding_expansion.runs.options import ModelConfig


@dataclass(frozen=True)
class PlainBackbone:
    """A backbone as it comes.

    Attributes:
        config: the options of the network, with its mean and std. `weights` is the file name without its folder.
        model: the network, in evaluation mode.
        preprocessing: the preprocessing of images.
        assumed: what had to be assumed about the weights, in one sentence; empty if nothing was.
        text: the text tower of the same pair; None if there is none.
    """

    config: ModelConfig
    model: EmbeddingModel
    preprocessing: Preprocessing
    assumed: str = ""
    text: TextTower | None = None

    @property
    def has_random_weights(self) -> bool:
        """Whether neither a file nor pretrained weights were loaded."""
        return self.config.weights is None and not self.config.pretrained


@validates
def open_backbone(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    pretrained: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    pooling: Literal["avg", "gem"] = "avg",
) -> PlainBackbone:
    """Opens a backbone as it comes. The arguments and errors are those of `Embedder.from_backbone`."""
    image_size = as_limit(image_size, "image_size", most=4096)
    if name in OF_VECTORS:
        raise InvalidInput(f"{name} is for vectors; pass a backbone for images, such as resnet50 or timm/NAME")
    config = ModelConfig(
        backbone=name,
        dim="none",
        pooling=pooling,
        pretrained=pretrained,
        weights=None if weights is None else os.fspath(weights),
        mean=_floats("mean", mean),
        std=_floats("std", std),
        channels=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_model(config).eval()
    size = model.image_size if image_size is None else image_size
    _check_size(model, size, name)
    config = dataclasses.replace(
        config,
        weights=None if config.weights is None else Path(config.weights).name,
        mean=[round(value, 6) for value in model.mean.flatten().tolist()],
        std=[round(value, 6) for value in model.std.flatten().tolist()],
    )
    text, without = _text_tower(name, pretrained, weights)
    assumed = "; ".join(filter(None, (model.assumed, without)))
    found = PlainBackbone(config, model, preprocessing_of(size, model.crop), assumed, text)
    if found.has_random_weights:
        random = f"{name} has random weights, because neither weights nor pretrained is given"
        return dataclasses.replace(found, assumed=f"{random}; pass one of them")
    return found


def _text_tower(name: str, pretrained: bool, weights: str | os.PathLike[str] | None) -> tuple[TextTower | None, str]:
    """The text tower of a pair of towers, or None; and why there is none although there should be."""
    if not name.startswith(PREFIX) or not (pretrained or weights):
        return None, ""
    pair = open_pair(name, pretrained=pretrained, weights=None if weights is None else os.fspath(weights))
    try:
        return TextTower(name, pair), ""
    except DataError as error:
        return None, f"texts cannot be embedded, because {error}"


@validates
def _floats(name: str, values: Sequence[float] | None) -> list[float] | None:
    if values is None:
        return None
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InvalidType(f"{name} is {shown(values)}; pass a list of numbers, one per channel") from error


def _check_size(model: EmbeddingModel, size: int, name: str) -> None:
    """Runs an empty image through the model, to report an unsupported image size at once."""
    if size == model.image_size:
        return
    try:
        model.embed(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"{name} takes no images of {size} pixels ({reason}); pass another image_size, or omit it for "
            f"{model.image_size}"
        ) from error
