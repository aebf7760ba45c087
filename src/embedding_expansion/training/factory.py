"""Makes the loss, the model and the optimiser that a configuration describes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.core.miners import (
    BatchHardMiner,
    DistanceWeightedMiner,
    EasyPositiveMiner,
    MultiSimilarityMiner,
)
from embedding_expansion.core.modules import LOSSES
from embedding_expansion.core.pair_loss import OPTIONS, PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.proxy_losses import PROXY_LOSSES
from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.model import EmbeddingModel
from embedding_expansion.training.config import ExpansionConfig, ModelConfig, OptimizerConfig, TrainConfig

BY_NAME: dict[str, type[PairLoss]] = {**LOSSES, **PROXY_LOSSES}

Miner: TypeAlias = Callable[[Pairs], Pairs]
MINERS: dict[str, Callable[[TrainConfig], Miner | None]] = {
    "none": lambda config: None,
    "multi_similarity": lambda config: MultiSimilarityMiner(config.miner.epsilon),
    "easy_positive": lambda config: EasyPositiveMiner(),
    "batch_hard": lambda config: BatchHardMiner(),
    "distance_weighted": lambda config: DistanceWeightedMiner(config.model.dim),
}


def make_loss(config: TrainConfig, num_classes: int) -> PairLoss:
    """The loss, expanded unless `expansion.n` is none, with its miner and its memory.

    Args:
        config: of the run.
        num_classes: training classes, for losses with parameters per class; the batches number them from 0.

    Raises:
        UnknownName: no loss, no parameter of the loss, or no miner has the given name; says the nearest.
        InvalidInput, InvalidType: a parameter's value cannot be used, the loss cannot be expanded, or takes no memory.
    """
    given: dict[str, Any] = dict(config.loss)
    name = str(given.pop("name"))
    if name not in BY_NAME:
        raise UnknownName("loss", name, BY_NAME)
    known = inspect.signature(BY_NAME[name]).parameters
    sizes: dict[str, Any] = {"num_classes": num_classes, "embedding_size": config.model.dim}
    own = known.keys() - sizes.keys() - {option.name for option in OPTIONS}
    for parameter in given:
        if parameter not in own:
            raise UnknownName(f"parameter of the loss {name}", parameter, own)
        default, value = known[parameter].default, given[parameter]
        if type(default) is int and isinstance(value, float) and value.is_integer():  # as a file may write it: 20.0
            given[parameter] = int(value)
    # A size that may be left out is that of a boundary for each class, which only one that is learnt can have.
    learnt = given.get("learn_beta") is True
    needed = {size for size in sizes.keys() & known.keys() if learnt or known[size].default is inspect.Parameter.empty}
    options: dict[str, Any] = {"miner": make_miner(config), "chunk": config.chunk, "statistics": True}
    loss = BY_NAME[name](**{size: sizes[size] for size in needed}, **given, **options)
    return _with_memory(_expanded(loss, name, config.expansion), config)


def make_miner(config: TrainConfig) -> Miner | None:
    """The miner, or None where the loss gets to see all pairs.

    Raises:
        UnknownName: there is none of that name; says the nearest.
        InvalidInput: the embeddings have too few dimensions for it.
    """
    name = config.miner.name
    if name not in MINERS:
        raise UnknownName("miner", name, MINERS)
    return MINERS[name](config)


def _expanded(loss: PairLoss, name: str, expansion: ExpansionConfig) -> PairLoss:
    if expansion.n == "none":
        return loss
    if loss.not_expandable:
        raise InvalidInput(f"the loss {name} cannot be expanded: {loss.not_expandable}; pass --expansion none")
    return EmbeddingExpansion(
        loss,
        n=math.inf if expansion.n == "inf" else expansion.n,
        scope=expansion.scope,
        normalize_synthetic=expansion.normalize_synthetic,
        max_segments=expansion.max_segments,
    )


def _with_memory(loss: PairLoss, config: TrainConfig) -> PairLoss:
    memory = config.memory
    if memory.size == "none":
        return loss
    return CrossBatchMemory(loss, config.model.dim, size=memory.size, start=memory.start)


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
