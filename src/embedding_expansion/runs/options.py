"""The options of a run and their valid ranges: typed dataclasses that define the command line and `config.yaml`.

Nothing heavy is imported here, so that `--help` is fast. Names of losses, data sets and backbones are checked when the
run is set up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeAlias

from embedding_expansion.errors import InvalidInput
from embedding_expansion.forms import DEFAULT_FORM, DEFAULT_N, FORMS, Form, FormName, Scope
from embedding_expansion.methods import METHODS, NO_METHOD, check_method, described

Precision: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
RecipeName: TypeAlias = Literal["scratch", "head", "finetune"]


@dataclass(frozen=True)
class DataConfig:
    """The data set."""

    name: Annotated[
        str,
        "name of a data set (see `embex data list`), a folder of class folders, a .csv or .tsv table, or an .npz or "
        ".parquet file of vectors",
    ] = "glyphs"
    root: Annotated[str | None, "folder that contains the data set; default: the folders of `embex data list`"] = None
    part: Annotated[bool, "accept an incomplete data set, which every output then states"] = False
    train_classes: Annotated[
        int | None,
        "for a folder of class folders or a file of vectors: number of training classes; the others are for testing",
    ] = None
    image_size: Annotated[
        int | None, "side of the images in pixels; default: 32 for conv4, otherwise the size that the backbone expects"
    ] = None
    transform: Annotated[
        str | None,
        "augmentation of training images; default: that of the recipe, or else the one that suits the data set",
    ] = None
    workers: Annotated[int | None, "processes that load images; default: up to 4, and 0 for data sets in memory"] = None


@dataclass(frozen=True)
class SamplerConfig:
    """How batches are sampled: P classes with K images each."""

    classes_per_batch: Annotated[
        int | None,
        "classes per batch; default: 32, with the recipes head and finetune 16, or all classes if there are fewer",
    ] = None
    images_per_class: Annotated[int, "images per class"] = 4


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: Annotated[
        str | None,
        "conv4, a torchvision model (googlenet, resnet50, ...) or timm/NAME; for vectors: linear or mlp; default: "
        "conv4 for small images, linear for vectors",
    ] = None
    dim: Annotated[
        int | Literal["none", "width"],
        "dimensions of the embedding; width: as many as the backbone has features; none: no head, the features "
        "themselves",
    ] = 128
    head_init: Annotated[
        Literal["random", "pca"],
        "initial weights of the head: random, or those with which a pretrained backbone keeps its neighbours: the "
        "projection onto the principal components of the training features (pca), or the identity if dim is width",
    ] = "random"
    pooling: Annotated[Literal["avg", "gem"], "global pooling: average (avg) or generalised mean (gem)"] = "avg"
    pretrained: Annotated[bool, "download ImageNet weights with the library of the backbone"] = False
    weights: Annotated[str | None, "local .safetensors file with the backbone's state dict"] = None
    mean: Annotated[
        list[float] | None,
        "mean of the pixels in 0..1; default: as the weights file, a JSON file beside it or the backbone's library "
        "says",
    ] = None
    std: Annotated[list[float] | None, "standard deviation of the pixels; default: as for the mean"] = None
    channels: Annotated[
        int | None, "colour channels; default: those of the data set for conv4, otherwise 3; for vectors: dimensions"
    ] = None
    freeze_batch_norm: Annotated[bool, "keep the batch norm of the pretrained weights fixed"] = False
    freeze_backbone: Annotated[
        bool, "cache the backbone's features once and train only the head, without augmentation"
    ] = False

    @property
    def has_weights(self) -> bool:
        """Whether the backbone starts from given weights, not from random ones."""
        return self.pretrained or self.weights is not None

    @property
    def dimensions(self) -> int:
        """`dim` as a number; 128 instead of the width of the backbone, as long as that is not known."""
        return 128 if isinstance(self.dim, str) else self.dim

    def __str__(self) -> str:
        """The backbone and the head in words."""
        heads = {"none": "its own features, without a head", "width": "a head as wide as its features"}
        head = heads[self.dim] if isinstance(self.dim, str) else f"{self.dim} dimensions"
        return f"{self.backbone}, {head}"


@dataclass(frozen=True)
class ExpansionConfig:
    """Embedding expansion."""

    form: Annotated[
        FormName | None,
        "paper: the hardest points of each pair of classes; anchor: as in the released program; negative: the anchor "
        "against the hardest points of other classes; balanced, balanced_negative: paper and negative with balance; "
        "balanced_sphere: a variant of it for unit rows; "
        "selective: a positive does not pull where a negative is closer; samples: synthetic points join the batch; "
        "none: no expansion; default: paper if another of these options is given, otherwise none",
    ] = None
    n: Annotated[
        int | Literal["inf", "none"] | None,
        "synthetic points per pair; inf: the whole arc between the points; 0: only the hardest pairs; none: as form "
        f"none; default: {DEFAULT_N} if a form is given",
    ] = None
    scope: Annotated[
        Scope | None,
        "points on the anchor's side; class_pair: those of its class; anchor: those towards its partner; negative: the "
        "anchor alone; default: that of the form",
    ] = None
    balance: Annotated[
        bool | Literal["sphere"] | None,
        "reduce the pull so that expansion does not make the points coincide; sphere: a variant for unit rows; "
        "default: that of the form",
    ] = None
    normalize_synthetic: Annotated[bool, "L2-normalise the synthetic points"] = True
    max_segments: Annotated[int | None, "maximum number of expanded pairs per class; default: all"] = None

    @property
    def is_plain(self) -> bool:
        """Whether the loss is trained without expansion."""
        return "none" in (self.form, self.n) or self == ExpansionConfig()

    @property
    def resolved(self) -> ExpansionConfig:
        """The same with the form and the number of points in place of None."""
        if self.is_plain:
            return replace(self, form="none" if self.form is None else self.form)
        form = DEFAULT_FORM if self.form is None else self.form
        return replace(self, form=form, n=DEFAULT_N if self.n is None else self.n)

    @property
    def search(self) -> Form | None:
        """The form with the given scope and balance; None for the forms that do not search for hardest pairs."""
        name = self.resolved.form
        if self.is_plain or name not in FORMS:
            return None
        form = FORMS[name]
        scope, balance = self.scope, self.balance
        return replace(
            form,
            scope=form.scope if scope is None else scope,
            balance=form.balance if balance is None else balance,
        )


#: The miners by name; none uses all pairs.
MINERS = ("none", "multi_similarity", "easy_positive", "batch_hard", "distance_weighted")


@dataclass(frozen=True)
class MinerConfig:
    """Which pairs enter the loss."""

    name: Annotated[str, "multi_similarity, easy_positive, batch_hard or distance_weighted; none: all pairs"] = "none"
    epsilon: Annotated[float, "multi_similarity: margin by which a pair may be easier than the hardest one"] = 0.1


@dataclass(frozen=True)
class MemoryConfig:
    """Cross-batch memory."""

    size: Annotated[
        int | Literal["none"],
        "number of embeddings of earlier batches that each batch is also compared with; none: no memory",
    ] = "none"
    start: Annotated[int, "step at which the memory starts"] = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its schedule."""

    name: Annotated[Literal["adam", "adamw"], "optimiser"] = "adam"
    lr: Annotated[float, "learning rate; with backbone_lr_factor that of the head"] = 1e-3
    backbone_lr_factor: Annotated[float, "learning rate of the backbone, as a factor of lr"] = 1.0
    loss_lr_factor: Annotated[float, "learning rate of the loss's parameters (proxies, margins), as a factor of lr"] = (
        10.0
    )
    weight_decay: Annotated[float, "weight decay; not applied to the loss's parameters"] = 5e-4
    schedule: Annotated[
        Literal["none", "cosine", "step"], "cosine: decays to 0; step: multiplies by gamma at milestones"
    ] = "none"
    warmup: Annotated[int, "number of initial steps in which the learning rate grows linearly"] = 0
    milestones: Annotated[list[int], "steps at which the schedule step multiplies by gamma"] = field(
        default_factory=list
    )
    gamma: Annotated[float, "factor of the schedule step"] = 0.5
    clip_norm: Annotated[float | None, "maximum norm of the gradient; default: no clipping"] = None


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    recipe: Annotated[
        RecipeName | None,
        "defaults of the other options: scratch (small images, vectors), head (on the frozen features of a pretrained "
        "backbone) or finetune; default: the one that suits the data, the backbone and the machine",
    ] = None
    data: Annotated[DataConfig, "data"] = field(default_factory=DataConfig)
    sampler: Annotated[SamplerConfig, "batches"] = field(default_factory=SamplerConfig)
    model: Annotated[ModelConfig, "model"] = field(default_factory=ModelConfig)
    loss: Annotated[
        dict[str, bool | int | float | str | list[int]],
        "name of the loss; its parameters as in --loss.alpha 2, --loss.mining semihard, --loss.ks [1,4]",
    ] = field(default_factory=lambda: {"name": "multi_similarity"})
    method: Annotated[
        dict[str, bool | int | float | str],
        f"name of a method that synthesises samples otherwise than expansion, or {NO_METHOD}; its parameters as in "
        "--method.copies 2. Each takes the loss of its paper by default, and others if they are named here: "
        f"{described()}",
    ] = field(default_factory=lambda: {"name": NO_METHOD})
    expansion: Annotated[
        ExpansionConfig,
        "expansion (off by default; a training from scratch can collapse with the form paper: compare "
        "balanced_negative and none)",
    ] = field(default_factory=ExpansionConfig)
    miner: Annotated[MinerConfig, "miner"] = field(default_factory=MinerConfig)
    memory: Annotated[MemoryConfig, "cross-batch memory (not with proxy losses)"] = field(default_factory=MemoryConfig)
    chunk: Annotated[
        int | None, "anchors per block of the loss: saves memory, but doubles the work; default: all anchors at once"
    ] = None
    optimizer: Annotated[OptimizerConfig, "optimizer"] = field(default_factory=OptimizerConfig)
    steps: Annotated[int, "training steps"] = 300
    warmup_head: Annotated[int, "number of initial steps that train only the head, with a frozen backbone"] = 0
    ema: Annotated[
        float | None,
        "decay of a moving average of the weights, which is then evaluated and kept, e.g. 0.999; default: no average",
    ] = None
    flip: Annotated[bool, "average the embeddings of each image and its mirror image in evaluations"] = False
    protocol: Annotated[
        Literal["validation", "folds", "last", "paper"],
        "which weights are kept: those with the best MAP@R on held-out training classes (validation), those of the "
        "number of steps with the best MAP@R in a cross-validation over the training classes (folds), both without "
        "those whose Recall@1 is below that of the start; the last (last); or those with the best Recall@1 on the test "
        "classes, as in the paper (paper; the reported numbers are then optimistic)",
    ] = "validation"
    validation_share: Annotated[
        float | None,
        "share of the training classes held out by --protocol validation; default: a fifth, and at least 5 classes if "
        "as many are left to train on",
    ] = None
    eval_every: Annotated[int, "steps between evaluations"] = 50
    patience: Annotated[
        int | None, "stop after this many evaluations without improvement; default: that of the recipe"
    ] = None
    checkpoint_every: Annotated[int, "steps between checkpoints"] = 50
    log_every: Annotated[int, "steps between lines of log.jsonl"] = 10
    measure_before: Annotated[
        bool, "first evaluate raw pixels and the untrained network, or the backbone as it comes if it is pretrained"
    ] = True
    measure_test: Annotated[
        bool, "measure the test classes; false: they are never read, and the final metrics are of the held-out classes"
    ] = True
    seed: Annotated[int, "random seed"] = 0
    device: Annotated[str, "device: auto, cpu, cuda, cuda:1, ..."] = "auto"
    precision: Annotated[Precision, "arithmetic of the network; 16-bit types are for CUDA only"] = "auto"
    threads: Annotated[int | None, "CPU threads per process; default: torch's choice"] = None
    out: Annotated[str | None, "run folder; default: runs/DATA-LOSS-TIME"] = None

    @property
    def classes_per_batch(self) -> int:
        """The classes per batch if there are as many."""
        default = CLASSES_PER_BATCH if self.recipe in (None, "scratch") else CLASSES_OF_PRETRAINED
        return default if self.sampler.classes_per_batch is None else self.sampler.classes_per_batch

    @property
    def has_method(self) -> bool:
        """Whether a method of `generation` trains the loss."""
        return self.method.get("name") != NO_METHOD

    def __post_init__(self) -> None:
        """Validates all numbers."""
        check_numbers(self)


#: Sections with arbitrary entries: a name and its parameters.
FREE = ("loss", "method")


def with_options(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig:
    """The configuration with some options, by their full names, such as "optimizer.lr".

    The loss and the method keep their other parameters.
    """
    changes: dict[str, Any] = {}
    for name, value in options.items():
        section, _, own = name.rpartition(".")
        if not section:
            changes[own] = value
            continue
        before: Any = changes.get(section, getattr(config, section))
        changes[section] = {**before, own: value} if section in FREE else replace(before, **{own: value})
    return replace(config, **changes)


#: Default number of classes per batch, if there are as many; with a recipe that starts from a pretrained backbone,
#: whose steps take long, half of it.
CLASSES_PER_BATCH, CLASSES_OF_PRETRAINED = 32, 16

#: Minimum and maximum of each option. The maxima are far beyond practical values; they keep a typing error from using
#: up all memory.
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
    "optimizer.warmup": (0, 10**9),
    "optimizer.backbone_lr_factor": (0, 1000),
    "optimizer.loss_lr_factor": (0, 1000),
}
#: The sentences on options that leave nothing to learn.
NOTHING_LEARNS = (
    "dim is none, so that there is no head, and freeze_backbone freezes all the rest, so that nothing would learn; "
    "pass only one of them"
)
_NOTHING_WARMS_UP = "warmup_head trains only the head for some steps, but model.dim none has no head; pass only one"
#: Maximum number of bytes of the images of a batch, of a cross-batch memory and of a table of similarities.
MOST_BYTES = 10**10
#: Maximum of integer parameters of a loss, such as bins and centres per class.
MOST_PARTS = 10_000


def check_numbers(config: TrainConfig) -> None:
    """Checks the numbers of a configuration and contradictions between options, before any memory is allocated.

    Raises:
        InvalidInput: a number is out of range, or options contradict each other.
    """
    model, optimizer = config.model, config.optimizer
    for name, (low, high) in RANGES.items():
        section, _, field = name.rpartition(".")
        value = getattr(getattr(config, section) if section else config, field)
        if isinstance(value, int | float) and not low <= value <= high:
            none = {"memory.size": ", or none", "model.dim": ", width or none"}.get(name, "")
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
        raise InvalidInput(
            "warmup_head freezes the backbone for some steps, and model.freeze_backbone for all; pass only one"
        )
    if model.dim == "none" and model.head_init != "random":
        raise InvalidInput(
            f"model.head_init is {model.head_init}, but model.dim none has no head; pass only one of them"
        )
    if model.dim == "none" and (model.freeze_backbone or config.warmup_head):
        raise InvalidInput(NOTHING_LEARNS if model.freeze_backbone else _NOTHING_WARMS_UP)
    if not config.measure_test and config.protocol != "validation":
        raise InvalidInput(
            f"measure_test is false, but --protocol {config.protocol} holds out no classes to measure instead; pass "
            "--protocol validation"
        )
    if config.validation_share is not None and not 0 < config.validation_share < 1:
        raise InvalidInput(f"validation_share is {config.validation_share}; pass a number between 0 and 1")
    for name, values in (("model.mean", model.mean), ("model.std", model.std)):
        if values is not None and not all(math.isfinite(value) for value in values):
            raise InvalidInput(f"{name} is {values}; pass finite numbers, one per channel")
    for name, part in config.loss.items():
        if isinstance(part, int) and abs(part) > MOST_PARTS:
            raise InvalidInput(f"loss.{name} is {part}; pass a number of at most {MOST_PARTS:,}")
    if model.channels not in (None, 1, 3) and model.backbone not in ("linear", "mlp"):
        raise InvalidInput(f"model.channels is {model.channels}; pass 1 (grey) or 3 (colour)")
    if "name" not in config.loss:
        raise InvalidInput("the loss has no name; pass one, for example --loss multi_similarity")
    if "name" not in config.method:
        raise InvalidInput("the method has no name; pass one, for example --method das")
    if config.has_method:
        _check_method(config)
    _check_expansion(config.expansion, config.sampler)
    _check_memory(config)
    _check_bytes(config)


def _check_method(config: TrainConfig) -> None:
    """Checks that the method takes the loss, and that nothing else is asked of the loss."""
    name = str(config.method["name"])
    check_method(name, str(config.loss["name"]))
    takes = METHODS[name]
    for option, is_given in (
        ("expansion", not config.expansion.is_plain),
        ("memory.size", config.memory.size != "none"),
        ("miner", config.miner.name != "none"),
        ("chunk", config.chunk is not None),
    ):
        if is_given:
            raise InvalidInput(f"the method {name} makes samples of its own and does not take {option}; omit it")
    if takes.pairs and config.sampler.images_per_class % 2:
        raise InvalidInput(
            f"sampler.images_per_class is {config.sampler.images_per_class}, but the method {name} takes the images of "
            "a class two at a time; pass an even number"
        )
    if takes.needs_head and config.model.dim == "none":
        raise InvalidInput(
            f"the method {name} embeds generated features, but model.dim none has no head; pass a number"
        )


def _check_expansion(expansion: ExpansionConfig, sampler: SamplerConfig) -> None:
    n, form = expansion.n, expansion.form
    _check_form(expansion)
    if isinstance(n, int) and n < 0:
        raise InvalidInput(f"expansion.n is {n}; pass 0 or more, inf, or none for no expansion")
    if _pairs_images(expansion) and sampler.images_per_class % 2:
        raise InvalidInput(
            f"sampler.images_per_class is {sampler.images_per_class}, but --expansion.scope anchor pairs the images of "
            "a class; pass an even number, or --expansion.scope class_pair"
        )
    if form == "samples" and n in (0, "inf"):
        raise InvalidInput(
            f"expansion.n is {n}, but the form samples adds n points per pair to the batch; pass 1 or more"
        )


def _check_form(expansion: ExpansionConfig) -> None:
    """Checks that the form does not contradict the options that override a part of it."""
    n, form = expansion.n, expansion.form
    # With n none the form may be the default, or that of a run that is older than the forms.
    if n == "none" and form not in (None, "none", "paper", DEFAULT_FORM):
        raise InvalidInput(
            f"expansion.n is none, which trains without expansion, but expansion.form is {form}; pass only one of them"
        )
    without = "the run has no expansion" if expansion.is_plain else "the form samples does not search for hardest pairs"
    if (expansion.is_plain or form == "samples") and expansion.balance not in (None, False):
        balance = str(expansion.balance).lower()
        raise InvalidInput(f"expansion.balance is {balance}, but {without}; pass another expansion.form, or no balance")
    if expansion.search is not None and expansion.search.selective and expansion.search.balance is not False:
        raise InvalidInput("expansion.balance and the form selective both reduce the pull; pass only one of them")
    # Runs that are older than the forms have a scope beside n none.
    if (form == "samples" or (expansion.is_plain and n != "none")) and expansion.scope is not None:
        raise InvalidInput(
            f"expansion.scope is {expansion.scope}, but {without}; pass another expansion.form, or no scope"
        )


def _pairs_images(expansion: ExpansionConfig) -> bool:
    """Whether the images of a class are paired, so that their number must be even."""
    return expansion.search is not None and expansion.search.scope == "anchor"


def _check_memory(config: TrainConfig) -> None:
    memory = config.memory
    if memory.size == "none":
        if memory.start:
            raise InvalidInput(f"memory.start is {memory.start}, but there is no memory; pass --memory.size as well")
        return
    if config.expansion.search is None and not config.expansion.is_plain:
        raise InvalidInput("the form samples takes no memory; pass another expansion.form, or no memory.size")
    if memory.size % 2 and _pairs_images(config.expansion):
        raise InvalidInput(
            f"memory.size is {memory.size}, but --expansion.scope anchor pairs the images of a class; pass an even "
            "number, or --expansion.scope class_pair"
        )
    if memory.start >= config.steps:
        raise InvalidInput(
            f"memory.start is {memory.start}, but there are {config.steps} steps; pass a smaller memory.start"
        )


def _check_bytes(config: TrainConfig) -> None:
    """Checks sizes that are valid on their own, but too large together."""
    sampler, size = config.sampler, config.data.image_size or 1
    batch = config.classes_per_batch * sampler.images_per_class
    remembered = 0 if config.memory.size == "none" else config.memory.size
    anchors = min(batch, config.chunk or batch)
    dim = config.model.dimensions  # without a head, this is checked again once the width of the backbone is known
    for what, count, remedy in (
        (f"a batch of {batch:,} images of {size:,} x {size:,} pixels", 3 * batch * size**2, "data.image_size"),
        (
            f"the similarities of {anchors:,} x {batch + remembered:,} images",
            4 * anchors * (batch + remembered),
            "chunk",
        ),
        (
            f"a memory of {remembered:,} x {dim:,} numbers",
            4 * remembered * dim,
            "memory.size",
        ),
    ):
        if count > MOST_BYTES:
            raise InvalidInput(
                f"{what} would take {count / 1e9:,.0f} GB; pass a smaller {remedy}, or fewer images per batch "
                "(sampler.classes_per_batch, sampler.images_per_class)"
            )
