"""Makes the loss, the model and the optimiser that a configuration describes."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import nn

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.modules import LOSSES
from embedding_expansion.core.pair_loss import OPTIONS, PairLoss
from embedding_expansion.core.proxy_losses import PROXY_LOSSES
from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.model import EmbeddingModel
from embedding_expansion.training.config import ExpansionConfig, ModelConfig, OptimizerConfig, TrainConfig

BY_NAME: dict[str, type[PairLoss]] = {**LOSSES, **PROXY_LOSSES}


def make_loss(config: TrainConfig, num_classes: int) -> PairLoss:
    """The loss, expanded unless `expansion.n` is none.

    Args:
        config: of the run.
        num_classes: training classes, for losses with parameters per class; the batches number them from 0.

    Raises:
        UnknownName: no loss, or no parameter of the loss, has the given name; says the nearest.
        InvalidInput: a parameter's value is of the wrong kind, or the loss cannot be expanded.
    """
    parameters: dict[str, Any] = dict(config.loss)
    name = str(parameters.pop("name"))
    if name not in BY_NAME:
        raise UnknownName("loss", name, BY_NAME)
    known = inspect.signature(BY_NAME[name]).parameters
    sizes = {"num_classes": num_classes, "embedding_size": config.model.dim}
    # Those that the loss asks for; an optional one (margin's, of a beta for each class) is the user's choice.
    filled_in: dict[str, Any] = {
        size: value for size, value in sizes.items() if size in known and known[size].default is inspect.Parameter.empty
    }
    options = {option.name for option in OPTIONS}
    parameters = _checked(name, parameters, {key: known[key].default for key in known.keys() - filled_in - options})
    loss = BY_NAME[name](**filled_in, **parameters, statistics=True)
    expansion: ExpansionConfig = config.expansion
    if expansion.n == "none":
        return loss
    if loss.not_expandable:
        raise InvalidInput(f"the loss {name} cannot be expanded: {loss.not_expandable}; pass --expansion none")
    return EmbeddingExpansion(
        loss, n=expansion.n, scope=expansion.scope, normalize_synthetic=expansion.normalize_synthetic, statistics=True
    )


def _checked(name: str, given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a loss as it takes them: known by name, and of the kind of their defaults."""
    for parameter, value in given.items():
        if parameter not in defaults:
            raise UnknownName(f"parameter of the loss {name}", parameter, defaults)
        wanted = _kind(defaults[parameter])
        if _kind(value) != wanted:
            raise InvalidInput(f"loss.{parameter} is {value!r}; pass {wanted}, by default {defaults[parameter]}")
    return {key: float(value) if isinstance(defaults[key], float) else value for key, value in given.items()}


def _kind(value: object) -> str:
    return "true or false" if isinstance(value, bool) else "a name" if isinstance(value, str) else "a number"


def make_model(config: ModelConfig, *, fetch_weights: bool = True) -> EmbeddingModel:
    """The model; without `fetch_weights` an empty one, whose weights a checkpoint will bring."""
    return EmbeddingModel(
        config.backbone,
        config.dim,
        pooling=config.pooling,
        channels=3 if config.channels is None else config.channels,
        pretrained=config.pretrained and fetch_weights,
        weights=config.weights if fetch_weights else None,
        mean=config.mean,
        std=config.std,
        freeze_batch_norm=config.freeze_batch_norm,
        freeze_backbone=config.freeze_backbone,
    )


def make_optimizer(config: OptimizerConfig, model: EmbeddingModel, loss: nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW over three groups: head and pooling at lr, the backbone and the loss's parameters at their shares.

    What a loss learns is not decayed: proxies are normalised, so that decay would only speed them up, and a margin of 0
    is no better than another one.
    """
    groups: list[dict[str, Any]] = [
        {"params": [*model.pooling.parameters(), *model.head.parameters()], "factor": 1.0},
        {"params": list(model.trunk.parameters()), "factor": config.backbone_lr_factor},
        {"params": list(loss.parameters()), "factor": config.loss_lr_factor, "weight_decay": 0.0},
    ]
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind([group for group in groups if group["params"]], lr=config.lr, weight_decay=config.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, step: int, steps: int) -> float:
    """Sets what the schedule says for this step, a function of the step alone, and gives it back (without factors)."""
    lr = config.lr
    if config.schedule == "cosine":
        lr *= (1 + math.cos(math.pi * step / steps)) / 2
    elif config.schedule == "step":
        lr *= config.gamma ** sum(step >= milestone for milestone in config.milestones)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    return lr
