"""What numbers a configuration may hold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from embedding_expansion.errors import InvalidInput

if TYPE_CHECKING:
    from embedding_expansion.training.config import ExpansionConfig, SamplerConfig, TrainConfig


#: Classes of a batch, where the configuration leaves them open and there are as many.
CLASSES_PER_BATCH = 32

#: The lowest and the highest number that an option may have. The highest are far beyond what anybody trains with, and
#: keep a slip of the keyboard from taking all memory.
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10**9),
    "eval_every": (1, 10**9),
    "checkpoint_every": (1, 10**9),
    "log_every": (1, 10**9),
    "patience": (1, 10**9),
    "warmup_head": (0, 10**9),
    "chunk": (1, 10**9),
    "threads": (1, 1024),
    "seed": (0, 2**63 - 1),
    "data.image_size": (1, 4096),
    "data.train_classes": (1, 10**9),
    "data.workers": (0, 256),
    "sampler.classes_per_batch": (1, 65_536),
    "sampler.images_per_class": (1, 65_536),
    "model.dim": (1, 65_536),
    "model.channels": (1, 10**6),
    "expansion.max_segments": (1, 10**9),
    "miner.epsilon": (-4, 4),
    "memory.start": (0, 10**9),
    "memory.size": (1, 2**24),
    "optimizer.weight_decay": (0, 1),
    "optimizer.backbone_lr_factor": (0, 1000),
    "optimizer.loss_lr_factor": (0, 1000),
}
#: The most bytes of the images of a batch, of a memory and of a table of similarities.
MOST_BYTES = 10**10
#: The largest whole number in a loss: its bins, its centers for each class.
MOST_PARTS = 10_000


def check_numbers(config: TrainConfig) -> None:
    """Refuses numbers that no run can use, and options that contradict each other, before any memory is taken.

    Raises:
        InvalidInput: one of them; says what can be passed.
    """
    model, optimizer = config.model, config.optimizer
    for name, (low, high) in RANGES.items():
        section, _, field = name.rpartition(".")
        value = getattr(getattr(config, section) if section else config, field)
        if isinstance(value, int | float) and not low <= value <= high:
            none = ", or none" if name == "memory.size" else ""
            raise InvalidInput(f"{name} is {value}; pass a number of {low:,} to {high:,}{none}")
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
    for name, values in (("model.mean", model.mean), ("model.std", model.std)):
        if values is not None and not all(math.isfinite(value) for value in values):
            raise InvalidInput(f"{name} is {values}; pass finite numbers, one for each channel")
    for name, part in config.loss.items():
        if isinstance(part, int) and abs(part) > MOST_PARTS:
            raise InvalidInput(f"loss.{name} is {part}; pass a number of at most {MOST_PARTS:,}")
    if model.channels not in (None, 1, 3) and model.backbone not in ("linear", "mlp"):
        raise InvalidInput(f"model.channels is {model.channels}; pass 1 (grey) or 3 (colour)")
    if "name" not in config.loss:
        raise InvalidInput("the loss has no name; pass one, as --loss multi_similarity")
    _check_expansion(config.expansion, config.sampler)
    _check_memory(config)
    _check_bytes(config)


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
    if memory.size % 2 and by_anchor:
        raise InvalidInput(
            f"memory.size is {memory.size}, but --expansion.scope anchor pairs the images of a class; pass an even "
            "number, or --expansion.scope class_pair"
        )
    if memory.start >= config.steps:
        raise InvalidInput(f"memory.start is {memory.start}, but there are {config.steps} steps; pass a smaller one")


def _check_bytes(config: TrainConfig) -> None:
    """Refuses sizes that are each within their range and too large together."""
    sampler, size = config.sampler, config.data.image_size or 1
    batch = (sampler.classes_per_batch or CLASSES_PER_BATCH) * sampler.images_per_class
    remembered = 0 if config.memory.size == "none" else config.memory.size
    anchors = min(batch, config.chunk or batch)
    for what, count, remedy in (
        (f"a batch of {batch:,} images of {size:,} x {size:,} pixels", 3 * batch * size**2, "data.image_size"),
        (
            f"the similarities of {anchors:,} x {batch + remembered:,} images",
            4 * anchors * (batch + remembered),
            "chunk",
        ),
        (
            f"a memory of {remembered:,} x {config.model.dim:,} numbers",
            4 * remembered * config.model.dim,
            "memory.size",
        ),
    ):
        if count > MOST_BYTES:
            raise InvalidInput(
                f"{what} would take {count / 1e9:,.0f} GB; pass a smaller {remedy}, or fewer images in a batch "
                "(sampler.classes_per_batch, sampler.images_per_class)"
            )
