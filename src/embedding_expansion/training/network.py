"""The network of a run: suited to its data, with the weights that the seed starts with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from embedding_expansion.backbones import OF_VECTORS
from embedding_expansion.data.images import ImageSet
from embedding_expansion.errors import InvalidInput
from embedding_expansion.model import EmbeddingModel
from embedding_expansion.training.config import ModelConfig, TrainConfig
from embedding_expansion.training.factory import make_model


def suited(config: TrainConfig, images: ImageSet) -> ModelConfig:
    """The model's configuration with its channels; of vectors with a backbone for them.

    Raises:
        InvalidInput: a backbone for images and vectors, or the other way round; vectors of another length; options
            that vectors do not have.
    """
    data, model = config.data, config.model
    if not images.holds_vectors:
        if model.backbone in OF_VECTORS:
            raise InvalidInput(f"{model.backbone} is for vectors, and {data.name} holds images; pass conv4, say")
        default = images.channels if model.backbone == "conv4" else 3
        return dataclasses.replace(model, channels=default if model.channels is None else model.channels)
    if model.backbone not in ("conv4", *OF_VECTORS):  # conv4, the default for images, says nothing
        raise InvalidInput(f"{model.backbone} is for images, and {data.name} holds vectors; pass --model linear or mlp")
    if model.channels not in (None, images.channels):
        raise InvalidInput(
            f"{data.name} holds vectors of {images.channels} dimensions; the model takes {model.channels}"
        )
    if data.image_size not in (None, 1) or data.transform not in (None, "none"):
        raise InvalidInput(f"{data.name} holds vectors, which have neither image_size nor transform; leave these out")
    if config.flip:
        raise InvalidInput(f"{data.name} holds vectors, which have no mirror image; leave flip out")
    if model.freeze_backbone:
        raise InvalidInput("freeze_backbone is for images: of vectors nothing but the head and what precedes it learns")
    backbone = "linear" if model.backbone == "conv4" else model.backbone
    return dataclasses.replace(model, backbone=backbone, channels=images.channels)


def make_network(
    config: TrainConfig, train: ImageSet, device: torch.device, fetch_weights: bool
) -> tuple[EmbeddingModel, ModelConfig]:
    """The model that the seed starts with, on its device, and its configuration with nothing left open."""
    torch.manual_seed(config.seed)
    given = config.model
    model = make_model(given, fetch_weights=fetch_weights).to(device)
    model.to(memory_format=torch.channels_last)
    if model.takes_vectors:
        _standardize(model, train)
        return model, given
    mean, std = ([round(value, 6) for value in buffer.flatten().tolist()] for buffer in (model.mean, model.std))
    return model, dataclasses.replace(
        given,
        mean=mean if given.mean is None else given.mean,
        std=std if given.std is None else given.std,
        weights=None if given.weights is None else str(Path(given.weights).resolve()),
    )


def _standardize(model: EmbeddingModel, train: ImageSet) -> None:
    """Each dimension of vectors to mean 0 and deviation 1 over the training side; one that is constant stays so."""
    rows = np.asarray(train.pixels, dtype=np.float64)
    deviation = rows.std(axis=0)
    model.mean.copy_(torch.from_numpy(rows.mean(axis=0)))
    model.std.copy_(torch.from_numpy(np.where(deviation > 1e-6 * np.abs(rows).max(axis=0), deviation, 1)))


def check_size(model: EmbeddingModel, size: int, backbone: str) -> None:
    """Runs an empty image through, so that a size that the backbone cannot take is an error at once."""
    try:
        kind = torch.float32 if model.takes_vectors else torch.uint8
        model.embed(torch.zeros(1, model.channels, size, size, dtype=kind, device=model.mean.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"{backbone} cannot take images of {size} pixels ({reason}); "
            f"pass another --data.image_size, or none for {model.image_size}"
        ) from error
