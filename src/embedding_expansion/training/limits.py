"""What numbers a configuration may hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    from embedding_expansion.training.config import ExpansionConfig, SamplerConfig, TrainConfig


def check_numbers(config: TrainConfig) -> None:
    """Refuses numbers that no run can use, and options that contradict each other.

    Raises:
        InvalidInput: one of them; says what can be passed.
    """
    data, sampler, model, optimizer = config.data, config.sampler, config.model, config.optimizer
    for name, value, low, high in (
        ("steps", config.steps, 1, None),
        ("eval_every", config.eval_every, 1, None),
        ("checkpoint_every", config.checkpoint_every, 1, None),
        ("log_every", config.log_every, 1, None),
        ("patience", config.patience, 1, None),
        ("warmup_head", config.warmup_head, 0, None),
        ("chunk", config.chunk, 1, None),
        ("expansion.max_segments", config.expansion.max_segments, 1, None),
        ("miner.epsilon", config.miner.epsilon, -4, 4),
        ("memory.start", config.memory.start, 0, None),
        ("threads", config.threads, 1, 1024),
        ("seed", config.seed, 0, 2**63 - 1),
        ("data.image_size", data.image_size, 1, None),
        ("data.workers", data.workers, 0, 1024),
        ("sampler.classes_per_batch", sampler.classes_per_batch, 1, None),
        ("sampler.images_per_class", sampler.images_per_class, 1, None),
        ("model.dim", model.dim, 1, None),
        ("optimizer.weight_decay", optimizer.weight_decay, 0, 1),
        ("optimizer.backbone_lr_factor", optimizer.backbone_lr_factor, 0, 1000),
        ("optimizer.loss_lr_factor", optimizer.loss_lr_factor, 0, 1000),
    ):
        if value is not None and not low <= value <= (math.inf if high is None else high):
            wanted = f"at least {low}" if high is None else f"{low} to {high}"
            raise InvalidInput(f"{name} is {value}; pass a number of {wanted}")
    for name, positive in (
        ("optimizer.lr", optimizer.lr),
        ("optimizer.gamma", optimizer.gamma),
        ("optimizer.clip_norm", optimizer.clip_norm),
    ):
        if positive is not None and not 0 < positive < math.inf:
            raise InvalidInput(f"{name} is {positive}; pass a number above 0")
    if config.ema is not None and not 0 < config.ema < 1:
        raise InvalidInput(f"ema is {config.ema}; pass a number between 0 and 1, such as 0.999")
    if config.warmup_head and model.freeze_backbone:
        raise InvalidInput("warmup_head freezes the backbone at first and model.freeze_backbone throughout; pass one")
    if not 0 < config.validation_share < 1:
        raise InvalidInput(f"validation_share is {config.validation_share}; pass a number between 0 and 1")
    if model.channels not in (None, 1, 3) and model.backbone not in ("linear", "mlp"):
        raise InvalidInput(f"model.channels is {model.channels}; pass 1 (grey) or 3 (colour)")
    if "name" not in config.loss:
        raise InvalidInput("the loss has no name; pass one, as --loss multi_similarity")
    _check_expansion(config.expansion, sampler)
    _check_memory(config)


def _check_expansion(expansion: ExpansionConfig, sampler: SamplerConfig) -> None:
    if expansion.n == "none":
        return
    if expansion.n != "inf" and expansion.n < 0:
        raise InvalidInput(f"expansion.n is {expansion.n}; pass 0 or more, inf, or none for the plain loss")
    if expansion.scope == "anchor" and sampler.images_per_class % 2:
        raise InvalidInput(
            f"sampler.images_per_class is {sampler.images_per_class}, but --expansion.scope anchor pairs the images of "
            "a class; pass an even number, or --expansion.scope class_pair"
        )


def _check_memory(config: TrainConfig) -> None:
    memory, by_anchor = config.memory, config.expansion.n != "none" and config.expansion.scope == "anchor"
    if memory.size == "none":
        if memory.start:
            raise InvalidInput(f"memory.start is {memory.start}, but there is no memory; pass --memory.size as well")
        return
    if memory.size < 1:
        raise InvalidInput(f"memory.size is {memory.size}; pass 1 or more, or none for no memory")
    if memory.size % 2 and by_anchor:
        raise InvalidInput(
            f"memory.size is {memory.size}, but --expansion.scope anchor pairs the images of a class; pass an even "
            "number, or --expansion.scope class_pair"
        )
    if memory.start >= config.steps:
        raise InvalidInput(f"memory.start is {memory.start}, but there are {config.steps} steps; pass a smaller one")
