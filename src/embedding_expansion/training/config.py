"""Everything that decides a run, as typed dataclasses that are at once the command line and `config.yaml`.

Nothing heavy is imported here, so that `--help` answers at once. Names that only the heavy parts know (losses, data
sets, backbones) are checked when the run is set up.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import jsonargparse

from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.training.config_text import check_text
from embedding_expansion.training.limits import check_numbers
from embedding_expansion.training.option_errors import sentence

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


class _Parser(jsonargparse.ArgumentParser):
    """Looks at the text of a configuration before it is parsed; an InvalidInput says what is wrong with it."""

    def parse_path(self, path: str | os.PathLike[str], *rest: Any, **named: Any) -> Any:
        """As the parser's own."""
        check_text(Path(path).read_text(encoding="utf-8"), may_be_null(), os.fspath(path))
        return super().parse_path(path, *rest, **named)

    def parse_string(self, content: str, path: str | os.PathLike[str] = "", *rest: Any, **named: Any) -> Any:
        """As the parser's own."""
        if not path:  # a file's text was looked at above
            check_text(content, may_be_null())
        return super().parse_string(content, path, *rest, **named)


def may_be_null() -> dict[str, bool]:
    """The full name of each option, and whether it may be null (left to the program)."""
    found = {}
    for option in _options(TrainConfig()):
        for inner in [] if option.section is None else _options(option.default):
            found[f"{option.name}.{inner.name}"] = inner.may_be_null
        if option.section is None and option.name != "loss":
            found[option.name] = option.may_be_null
    return found


def parser() -> jsonargparse.ArgumentParser:
    """The command line of a run: every field of `TrainConfig`, and `--config FILE`."""
    result = _Parser(
        prog="embex train",
        exit_on_error=False,
        allow_abbrev=False,
        description="Trains an embedding model, and measures it before and after.",
    )
    result.add_argument("--config", action="config", help="YAML file, as a run folder's config.yaml; options override")
    for option in _options(TrainConfig()):
        if option.section is None:
            result.add_argument(f"--{option.name}", type=option.kind, default=option.default, help=option.text)
            continue
        group = result.add_argument_group(option.text)
        for field_ in _options(option.default):
            name = f"--{option.name}.{field_.name}"
            group.add_argument(name, type=field_.kind, default=field_.default, help=field_.text)
    return result


def from_namespace(parsed: jsonargparse.Namespace) -> TrainConfig:
    """The typed configuration in what `parser()` has parsed.

    Raises:
        InvalidInput: a value that no run can use.
    """
    values = parsed.as_dict()
    arguments: dict[str, Any] = {}
    for option in _options(TrainConfig()):
        given = values[option.name]
        if option.section is not None and not isinstance(given, dict):
            entries = f"{option.name}: {{{_options(option.default)[0].name}: {given}}}"
            raise InvalidInput(f"{option.name} is {given!r}; pass entries, as {entries}")
        arguments[option.name] = given if option.section is None else option.section(**given)
    return TrainConfig(**arguments)


def dump(config: TrainConfig) -> str:
    """The configuration as YAML; `load` gives it back. Options left to the program (None) are not written."""
    command_line = parser()
    namespace = command_line.get_defaults()
    for option in _options(config):
        if option.section is None:
            namespace[option.name] = option.default
            continue
        for inner in _options(option.default):
            namespace[f"{option.name}.{inner.name}"] = inner.default
    text: str = command_line.dump(namespace)
    return text


def load(path: Path) -> TrainConfig:
    """Reads a `config.yaml`.

    Raises:
        RunError: the file is missing, or no configuration of a run.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}); pass a run folder made by embex train") from error
    try:
        return from_namespace(parser().parse_string(text))
    except (jsonargparse.ArgumentError, InvalidInput) as error:
        raise RunError(f"{path} is no configuration of a run: {sentence(str(error), [*may_be_null()])}") from error


@dataclass(frozen=True)
class _Option:
    """One field of a configuration as an option; a section is a field that has fields of its own."""

    name: str
    kind: Any
    section: type[Any] | None
    default: Any  # its value in the configuration that was looked at
    text: str

    @property
    def may_be_null(self) -> bool:
        """Whether null stands for a choice of the program's."""
        return type(None) in typing.get_args(self.kind)


def _options(config: Any) -> list[_Option]:
    options = []
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        kind, text = typing.get_args(hint)
        section: type[Any] | None = kind if isinstance(kind, type) and dataclasses.is_dataclass(kind) else None
        options.append(_Option(name, kind, section, getattr(config, name), text))
    return options
