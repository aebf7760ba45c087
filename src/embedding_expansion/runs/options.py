"""The options of a run: typed dataclasses, which are at once the command line and `config.yaml`, and their limits.

Nothing heavy is imported here, so that `--help` answers at once. Names that only the heavy parts know (losses, data
sets, backbones) are checked when the run is set up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from embedding_expansion.errors import InvalidInput

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class DataConfig:
    """What is trained and tested on."""

    name: Annotated[
        str,
        "data set by name (see `embex data list`), a folder of class folders, a .csv, .tsv, or vectors: .npz, .parquet",
    ] = "glyphs"
    root: Annotated[str | None, "folder that holds the data set; default: where `embex data list` says"] = None
    part: Annotated[bool, "open a part of the set, and say so in every output"] = False
    train_classes: Annotated[
        int | None, "of a folder of class folders or of vectors: this many classes train, the rest tests"
    ] = None
    image_size: Annotated[int | None, "side in pixels; default: 32 for conv4, else what the backbone is made for"] = (
        None
    )
    transform: Annotated[str | None, "how training images are varied; default: what suits the data set"] = None
    workers: Annotated[int | None, "processes that load images; default: none for sets held in memory"] = None


@dataclass(frozen=True)
class SamplerConfig:
    """How a batch is drawn: P classes with K images each."""

    classes_per_batch: Annotated[int | None, "classes in a batch; default: 32, or all where there are fewer"] = None
    images_per_class: Annotated[int, "images of each of them"] = 4


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: Annotated[
        str, "conv4, a torchvision name (googlenet, resnet50, ...) or timm/NAME; of vectors: linear or mlp"
    ] = "conv4"
    dim: Annotated[int, "dimensions of the embedding"] = 128
    pooling: Annotated[Literal["avg", "gem"], "global pooling: average or generalised mean"] = "avg"
    pretrained: Annotated[bool, "fetch ImageNet weights through the library that has the backbone"] = False
    weights: Annotated[str | None, "local .safetensors file with the backbone's state dict"] = None
    mean: Annotated[list[float] | None, "mean of the pixels in 0..1; default: the weights', else ImageNet's"] = None
    std: Annotated[list[float] | None, "their standard deviation, likewise"] = None
    channels: Annotated[
        int | None, "colour channels; default: the data set's for conv4, else 3; of vectors their dimensions"
    ] = None
    freeze_batch_norm: Annotated[bool, "keep batch norm as it comes with the weights"] = False
    freeze_backbone: Annotated[bool, "embed once, cache the features and train the head only; no augmentation"] = False


@dataclass(frozen=True)
class ExpansionConfig:
    """Embedding expansion."""

    n: Annotated[
        int | Literal["inf", "none"],
        "synthetic points per pair; inf: the whole arc; 0: mining only; none: the plain loss (better from scratch with "
        "hphn_triplet)",
    ] = 2
    scope: Annotated[Literal["class_pair", "anchor"], "the paper's formula, or the released program's"] = "class_pair"
    normalize_synthetic: Annotated[bool, "L2-normalise the synthetic points"] = True
    max_segments: Annotated[int | None, "expand at most so many pairs of a class (scope class_pair); default: all"] = (
        None
    )


@dataclass(frozen=True)
class MinerConfig:
    """Which pairs the loss gets to see."""

    name: Annotated[str, "multi_similarity, easy_positive, batch_hard or distance_weighted; none: all pairs"] = "none"
    epsilon: Annotated[float, "of multi_similarity: by how much a pair may be easier than the hardest"] = 0.1


@dataclass(frozen=True)
class MemoryConfig:
    """Cross-batch memory."""

    size: Annotated[
        int | Literal["none"], "so many embeddings of the batches before are compared with as well; none: of none"
    ] = "none"
    start: Annotated[int, "steps before they are"] = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights move."""

    name: Annotated[Literal["adam", "adamw"], "optimiser"] = "adam"
    lr: Annotated[float, "learning rate (of the head, where the backbone has its own)"] = 1e-3
    backbone_lr_factor: Annotated[float, "the backbone's learning rate as a factor of lr"] = 1.0
    loss_lr_factor: Annotated[float, "that of what the loss learns (proxies, margins) as a factor of lr"] = 10.0
    weight_decay: Annotated[float, "weight decay (none on what the loss learns)"] = 5e-4
    schedule: Annotated[Literal["none", "cosine", "step"], "cosine falls to 0; step multiplies at milestones"] = "none"
    milestones: Annotated[list[int], "steps at which `step` multiplies by gamma"] = field(default_factory=list)
    gamma: Annotated[float, "factor of `step`"] = 0.5
    clip_norm: Annotated[float | None, "largest norm of the gradient; default: not clipped"] = None


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    data: Annotated[DataConfig, "data"] = field(default_factory=DataConfig)
    sampler: Annotated[SamplerConfig, "batches"] = field(default_factory=SamplerConfig)
    model: Annotated[ModelConfig, "model"] = field(default_factory=ModelConfig)
    loss: Annotated[
        dict[str, bool | int | float | str | list[int]],
        "name of the loss, and its parameters as --loss.alpha 2, --loss.mining semihard, --loss.ks [1,4]",
    ] = field(default_factory=lambda: {"name": "multi_similarity"})
    expansion: Annotated[
        ExpansionConfig, "expansion (from scratch it can also do harm, with triplet for one: compare --expansion none)"
    ] = field(default_factory=ExpansionConfig)
    miner: Annotated[MinerConfig, "miner"] = field(default_factory=MinerConfig)
    memory: Annotated[MemoryConfig, "memory of past embeddings (not with losses on proxies)"] = field(
        default_factory=MemoryConfig
    )
    chunk: Annotated[
        int | None, "the loss in blocks of so many anchors, with the memory of one and twice the work; default: at once"
    ] = None
    optimizer: Annotated[OptimizerConfig, "optimizer"] = field(default_factory=OptimizerConfig)
    steps: Annotated[int, "training steps"] = 300
    warmup_head: Annotated[int, "so many first steps train the head alone, the backbone frozen"] = 0
    ema: Annotated[
        float | None,
        "decay of a moving average of the weights, which is then measured and kept, e.g. 0.999; default: none",
    ] = None
    flip: Annotated[bool, "measure with each image's embedding and its mirror image's averaged"] = False
    protocol: Annotated[
        Literal["validation", "last", "paper"],
        "which weights are kept: best on held-out training classes (validation), the last ones (last), or best on the "
        "test classes as the paper did (paper: the reported numbers are then optimistic)",
    ] = "validation"
    validation_share: Annotated[float, "share of the training classes held out by --protocol validation"] = 0.1
    eval_every: Annotated[int, "steps between two evaluations"] = 50
    patience: Annotated[int | None, "stop after this many evaluations without a better one; default: never"] = None
    checkpoint_every: Annotated[int, "steps between two checkpoints"] = 50
    log_every: Annotated[int, "steps between two lines of log.jsonl"] = 10
    measure_before: Annotated[bool, "measure raw pixels and the untrained net first"] = True
    seed: Annotated[int, "seed of everything random"] = 0
    device: Annotated[str, "auto, cpu, cuda, cuda:1, ..."] = "auto"
    precision: Annotated[Precision, "16-bit autocast on CUDA only"] = "auto"
    threads: Annotated[int | None, "threads of a process on the CPU; default: torch's choice"] = None
    out: Annotated[str | None, "run folder; default: runs/DATA-LOSS-TIME"] = None

    def __post_init__(self) -> None:
        """Refuses numbers that no run can use."""
        check_numbers(self)


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
