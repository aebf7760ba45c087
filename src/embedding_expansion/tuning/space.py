"""The search space of a study, which all arms share, and the budget of each trial, which its number alone decides."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.runs.options import TrainConfig, with_options
from embedding_expansion.training.factory import BY_NAME

Value: TypeAlias = float | int
#: What can be searched, by its short name.
SEARCHED = {
    "lr": "learning rate",
    "backbone": "factor of the backbone's learning rate",
    "loss": "margin or scale of the loss",
    "K": "images per class, in batches of the same size",
    "steps": "training steps",
}
#: The parameter of a loss that is searched: the first of these that it has.
_PARAMETERS = ("margin", "scale", "temperature", "angle", "beta")
_LR_DOWN, _LR_UP = 30.0, 10.0  # factors around the given learning rate
_BACKBONE = (0.01, 1.0)
_LOSS = 3.0  # factor down and up
_IMAGES_PER_CLASS = (2, 4, 8)
_SHARES = (0.5, 1.0, 2.0)  # of the given steps


@dataclass(frozen=True)
class Range:
    """Positive numbers between two bounds, searched by their logarithm."""

    low: float
    high: float
    default: float

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Choice:
    """A few whole numbers."""

    options: tuple[int, ...]
    default: int

    def __str__(self) -> str:
        return " or ".join(map(str, self.options))


@dataclass(frozen=True)
class Space:
    """What is searched.

    Attributes:
        dimensions: the full name of each searched option and its values.
        steps: the numbers of steps that trials get in turn; the first trial gets `first`.
        first: the steps of the first trial.
        batch: the number of images in a batch.
        seed: the seed of the budgets.
    """

    dimensions: dict[str, Range | Choice]
    steps: tuple[int, ...]
    first: int
    batch: int
    seed: int

    def defaults(self) -> dict[str, Value]:
        """The values of the first trial: those that were given."""
        return {name: values.default for name, values in self.dimensions.items()}

    def steps_of(self, number: int) -> int:
        """The steps of a trial, by its number alone, so that all arms get the same.

        The numbers of steps come in rounds in a random order; each round has every one of them once.
        """
        if number == 0:
            return self.first
        turn, place = divmod(number - 1, len(self.steps))
        return int(np.random.default_rng([self.seed, turn]).permutation(self.steps)[place])

    def apply(self, config: TrainConfig, values: Mapping[str, Value], number: int) -> TrainConfig:
        """The configuration of a trial, with its values rounded to three digits.

        Raises:
            InvalidInput: the values contradict other options.
        """
        rounded = {name: given if isinstance(given, int) else float(f"{given:.3g}") for name, given in values.items()}
        if (images := rounded.get("sampler.images_per_class")) is not None:
            rounded["sampler.classes_per_batch"] = self.batch // int(images)
        return with_options(config, {"steps": self.steps_of(number), **rounded})


def make_space(config: TrainConfig, search: Sequence[str] | None, classes: int, images: int) -> Space:
    """Builds the space around a configuration, whose `classes_per_batch` is set.

    Args:
        config: the configuration.
        search: short names of what is searched; None searches everything that applies.
        classes: the number of classes that the trials train on.
        images: the number of images in the smallest of them.

    Raises:
        UnknownName: there is nothing of this name to search.
        InvalidInput: something that was named does not apply, or nothing is left to search.
    """
    found = _dimensions(config, classes, images)
    for name in search or ():
        if name not in SEARCHED:
            raise UnknownName("part of the search space", name, SEARCHED)
        if name not in found:
            raise InvalidInput(f"--search {name} does not apply here, because {_reason(name)}; omit it")
    chosen = [name for name in found if name in search] if search else list(found)
    if not search and not (config.model.pretrained or config.model.weights) and "backbone" in chosen:
        chosen.remove("backbone")  # a backbone from scratch has no reason to learn at another rate than the head
    if not chosen:
        raise InvalidInput("there is nothing to search; pass --search lr, for example")
    steps = _steps(config) if "steps" in chosen else (config.steps,)
    dimensions = dict(entry for name in chosen if (entry := found[name]) is not None)
    batch = (config.sampler.classes_per_batch or 0) * config.sampler.images_per_class
    return Space(dimensions, steps, config.steps, batch, config.seed)


def _dimensions(config: TrainConfig, classes: int, images: int) -> dict[str, tuple[str, Range | Choice] | None]:
    """What applies, by short name; the steps are no dimension of the sampler."""
    lr = config.optimizer.lr
    found: dict[str, tuple[str, Range | Choice] | None] = {
        "lr": ("optimizer.lr", Range(lr / _LR_DOWN, lr * _LR_UP, lr))
    }
    factor = config.optimizer.backbone_lr_factor
    if not config.model.freeze_backbone and factor > 0:
        low, high = min(_BACKBONE[0], factor), max(_BACKBONE[1], factor)
        found["backbone"] = ("optimizer.backbone_lr_factor", Range(low, high, factor))
    if (parameter := _loss_parameter(config)) is not None:
        name, value = parameter
        found["loss"] = (f"loss.{name}", Range(value / _LOSS, value * _LOSS, value))
    given = config.sampler.images_per_class
    batch = (config.sampler.classes_per_batch or 0) * given
    fitting = [k for k in _IMAGES_PER_CLASS if batch % k == 0 and 2 <= batch // k <= classes and k <= images]
    if len(options := tuple(sorted({*fitting, given}))) > 1:
        found["K"] = ("sampler.images_per_class", Choice(options, given))
    if len(_steps(config)) > 1:
        found["steps"] = None
    return found


def _loss_parameter(config: TrainConfig) -> tuple[str, float] | None:
    """The searched parameter of the loss and its given value; None if it has none above 0."""
    known = inspect.signature(BY_NAME[str(config.loss["name"])]).parameters
    for name in _PARAMETERS:
        value = config.loss.get(name, known[name].default) if name in known else None
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return name, float(value)
    return None


def _steps(config: TrainConfig) -> tuple[int, ...]:
    fewest = max(config.memory.start, config.warmup_head) + 1
    return tuple(sorted({steps for share in _SHARES if (steps := round(share * config.steps)) >= fewest}))


def _reason(name: str) -> str:
    return {
        "backbone": "the backbone is frozen, or its rate is 0",
        "loss": "the loss has no margin, scale or temperature above 0",
        "K": "the classes and their images allow only the given images_per_class in a batch of this size",
    }.get(name, "there is one value only")
