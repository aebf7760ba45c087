"""Builds the loss, the network and the optimiser of a configuration."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES
from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.core.miners import (
    BatchHardMiner,
    DistanceWeightedMiner,
    EasyPositiveMiner,
    MultiSimilarityMiner,
)
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.synthetic_samples import SyntheticSamples
from embedding_expansion.data.images import ImageSet
from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.generation import METHODS
from embedding_expansion.generation.method import Method
from embedding_expansion.methods import METHODS as TAKES
from embedding_expansion.model.backbone_names import OF_VECTORS
from embedding_expansion.model.network import EmbeddingModel, make_model
from embedding_expansion.runs.options import ExpansionConfig, ModelConfig, OptimizerConfig, TrainConfig

BY_NAME: dict[str, type[PairLoss]] = {**LOSSES, **PROXY_LOSSES}

Miner: TypeAlias = Callable[[Pairs], Pairs]
MINERS: dict[str, Callable[[TrainConfig], Miner | None]] = {
    "none": lambda config: None,
    "multi_similarity": lambda config: MultiSimilarityMiner(config.miner.epsilon),
    "easy_positive": lambda config: EasyPositiveMiner(),
    "batch_hard": lambda config: BatchHardMiner(),
    "distance_weighted": lambda config: DistanceWeightedMiner(config.model.dimensions),
}


def make_loss(config: TrainConfig, num_classes: int) -> PairLoss:
    """Builds the loss with its expansion, miner and memory.

    Args:
        config: the configuration of the run.
        num_classes: the number of training classes, for losses with parameters per class. Batches number classes
            from 0.

    Raises:
        UnknownName: the name of the loss, of one of its parameters or of the miner is unknown.
        InvalidInput, InvalidType: the value of a parameter is invalid, or the loss supports no expansion or no memory.
    """
    given: dict[str, Any] = dict(config.loss)
    name = str(given.pop("name"))
    if name not in BY_NAME:
        raise UnknownName("loss", name, BY_NAME)
    known = inspect.signature(BY_NAME[name]).parameters
    sizes: dict[str, Any] = {"num_classes": num_classes, "embedding_size": config.model.dimensions}
    own = {key for key, parameter in known.items() if parameter.kind is not parameter.VAR_KEYWORD} - sizes.keys()
    for parameter in given:
        if parameter not in own:
            raise UnknownName(f"parameter of the loss {name}", parameter, own)
        default, value = known[parameter].default, given[parameter]
        if type(default) is int and isinstance(value, float) and value.is_integer():  # as a file may write it: 20.0
            given[parameter] = int(value)
    # An optional size is for one boundary per class, which only exists if the boundary is learnt.
    learnt = given.get("learn_beta") is True
    needed = {size for size in sizes.keys() & known.keys() if learnt or known[size].default is inspect.Parameter.empty}
    options: dict[str, Any] = {"miner": make_miner(config), "chunk": config.chunk, "statistics": True}
    if config.has_method:
        options["normalize"] = name not in TAKES[str(config.method["name"])].unnormalized
    loss = BY_NAME[name](**{size: sizes[size] for size in needed}, **given, **options)
    return _with_memory(_expanded(loss, name, config.expansion), config)


def make_method(config: TrainConfig, loss: PairLoss, model: EmbeddingModel, num_classes: int) -> Method:
    """Builds the method of a configuration around its loss.

    Args:
        config: the configuration of the run, with the number of classes of a batch.
        loss: what `make_loss` makes of it.
        model: the network, on its device.
        num_classes: the number of training classes.

    Raises:
        UnknownName: one of its parameters is unknown.
        InvalidInput, InvalidType: the value of a parameter is invalid.
    """
    given: dict[str, Any] = dict(config.method)
    name = str(given.pop("name"))
    known = inspect.signature(METHODS[name]).parameters
    sampler = config.sampler
    of_the_run: dict[str, Any] = {
        "loss": loss,
        "head": model.head,
        "width": model.head.in_features if isinstance(model.head, nn.Linear) else model.dimensions,
        "embedding_size": model.dimensions,
        "num_classes": num_classes,
        "batch_size": (sampler.classes_per_batch or config.classes_per_batch) * sampler.images_per_class,
    }
    own = known.keys() - of_the_run.keys()
    for parameter in given:
        if parameter not in own:
            raise UnknownName(f"parameter of the method {name}", parameter, own)
    torch.manual_seed(config.seed)
    needed = {size: value for size, value in of_the_run.items() if size in known}
    return METHODS[name](**needed, **given).to(model.mean.device)


def make_miner(config: TrainConfig) -> Miner | None:
    """Builds the miner; None means that the loss uses all pairs.

    Raises:
        UnknownName: no miner has this name.
        InvalidInput: the embeddings have too few dimensions for the miner.
    """
    name = config.miner.name
    if name not in MINERS:
        raise UnknownName("miner", name, MINERS)
    return MINERS[name](config)


def _expanded(loss: PairLoss, name: str, expansion: ExpansionConfig) -> PairLoss:
    n, search = expansion.resolved.n, expansion.search
    points: dict[str, Any] = {
        "n": math.inf if n == "inf" else n,
        "normalize_synthetic": expansion.normalize_synthetic,
        "max_segments": expansion.max_segments,
    }
    if expansion.is_plain:
        return loss
    if search is None:
        return SyntheticSamples(loss, **points)
    if loss.not_expandable:
        raise InvalidInput(f"the loss {name} cannot be expanded: {loss.not_expandable}; pass --expansion none")
    return EmbeddingExpansion(loss, scope=search.scope, balance=search.balance, selective=search.selective, **points)


def _with_memory(loss: PairLoss, config: TrainConfig) -> PairLoss:
    memory = config.memory
    if memory.size == "none":
        return loss
    return CrossBatchMemory(loss, config.model.dimensions, size=memory.size, start=memory.start)


def suited(config: TrainConfig, images: ImageSet) -> ModelConfig:
    """Resolves the backbone and its channels.

    Raises:
        InvalidInput: the backbone, the number of channels or another option does not fit the data.
    """
    data, model = config.data, config.model
    if not images.holds_vectors:
        if model.backbone in OF_VECTORS:
            raise InvalidInput(
                f"{model.backbone} is for vectors, but {data.name} holds images; pass a backbone for images, such as "
                "conv4"
            )
        backbone = "conv4" if model.backbone is None else model.backbone
        default = images.channels if backbone == "conv4" else 3
        channels = default if model.channels is None else model.channels
        return dataclasses.replace(model, backbone=backbone, channels=channels)
    if model.backbone not in (None, "conv4", *OF_VECTORS):  # older runs have conv4, the former default
        raise InvalidInput(f"{model.backbone} is for images, but {data.name} holds vectors; pass --model linear or mlp")
    if model.channels not in (None, images.channels):
        raise InvalidInput(
            f"{data.name} holds vectors of {images.channels} dimensions, but model.channels is {model.channels}; omit "
            "model.channels"
        )
    backbone = "linear" if model.backbone in (None, "conv4") else model.backbone
    if backbone == "linear" and model.dim == "none":
        raise InvalidInput(
            "linear has no layer besides its head, so that nothing would learn with model.dim none; pass mlp"
        )
    if data.image_size not in (None, 1) or data.transform not in (None, "none"):
        raise InvalidInput(
            f"{data.name} holds vectors, which have neither image_size nor transform; omit these options"
        )
    if config.flip:
        raise InvalidInput(f"{data.name} holds vectors, which have no mirror images; omit flip")
    if model.freeze_backbone:
        raise InvalidInput("freeze_backbone is for images, but the data holds vectors; omit it")
    return dataclasses.replace(model, backbone=backbone, channels=images.channels)


def make_network(
    config: TrainConfig, train: ImageSet, device: torch.device, fetch_weights: bool
) -> tuple[EmbeddingModel, ModelConfig]:
    """Builds the initial model on its device; returns it with its resolved configuration."""
    torch.manual_seed(config.seed)
    given = config.model
    model = make_model(given, fetch_weights=fetch_weights).to(device)
    model.to(memory_format=torch.channels_last)
    if given.dim == "width":
        given = dataclasses.replace(given, dim=model.dimensions)
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
    """Sets mean and deviation of each dimension of vectors from the training data. Constant dimensions are centred."""
    rows = np.asarray(train.pixels, dtype=np.float64)
    deviation = rows.std(axis=0)
    model.mean.copy_(torch.from_numpy(rows.mean(axis=0)))
    model.std.copy_(torch.from_numpy(np.where(deviation > 1e-6 * np.abs(rows).max(axis=0), deviation, 1)))


def sized(config: TrainConfig, model: EmbeddingModel) -> TrainConfig:
    """The configuration with the number of dimensions in place of a `model.dim` of none or width.

    Raises:
        InvalidInput: a memory of so many dimensions would be too large.
    """
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dim=model.dimensions))


def check_size(model: EmbeddingModel, size: int, backbone: str) -> None:
    """Runs an empty image through the model, to report an unsupported image size at once."""
    try:
        kind = torch.float32 if model.takes_vectors else torch.uint8
        model.embed(torch.zeros(1, model.channels, size, size, dtype=kind, device=model.mean.device))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"{backbone} does not support images of {size} pixels ({reason}); "
            f"pass another --data.image_size, or omit it for {model.image_size}"
        ) from error


def make_optimizer(config: OptimizerConfig, model: EmbeddingModel, loss: nn.Module) -> torch.optim.Optimizer:
    """Builds Adam or AdamW with three groups: head and pooling, backbone, and loss, each with its learning rate.

    With a method in place of the loss there is one more group for each of its other modules. Parameters of the loss
    have no weight decay: proxies are normalised, so that decay would only increase their effective learning rate, and
    margins have no reason to shrink to 0.
    """
    groups: list[dict[str, Any]] = [
        {"params": [*model.pooling.parameters(), *model.head.parameters()], "factor": 1.0},
        {"params": list(model.trunk.parameters()), "factor": config.backbone_lr_factor},
        {
            "params": list((loss.loss if isinstance(loss, Method) else loss).parameters()),
            "factor": config.loss_lr_factor,
            "weight_decay": 0.0,
        },
    ]
    rates = loss.rates if isinstance(loss, Method) else {}
    for name, module in loss.named_children() if isinstance(loss, Method) else ():
        if name != "loss":
            groups.append({"params": list(module.parameters()), "factor": rates.get(name, 1.0)})
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind([group for group in groups if group["params"]], lr=config.lr, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, steps: int) -> float:
    """Sets the scheduled learning rate, a function of the step alone; returns it without the factors of the groups."""
    lr = config.lr * min(1.0, (step + 1) / (config.warmup + 1))
    if config.schedule == "cosine":
        lr *= (1 + math.cos(math.pi * step / steps)) / 2
    elif config.schedule == "step":
        lr *= config.gamma ** sum(step >= milestone for milestone in config.milestones)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    return lr
