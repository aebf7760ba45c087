"""Chooses the recipe of a run: from the data, the backbone, and the time that fine-tuning takes on this machine."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from embedding_expansion.data.decoding import FORMATS
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.errors import InvalidInput
from embedding_expansion.model.backbone_names import OF_VECTORS
from embedding_expansion.model.backbones import cached_backbone
from embedding_expansion.model.network import EmbeddingModel, make_model
from embedding_expansion.model.trained import find_device
from embedding_expansion.runs.options import CLASSES_OF_PRETRAINED, RecipeName, TrainConfig
from embedding_expansion.runs.recipes import FEWEST_STEPS, MOST_STEPS, defaults, finetuning_steps
from embedding_expansion.training.cropping import SQUASHED, better_transform
from embedding_expansion.training.evaluation import hold_out_classes
from embedding_expansion.training.factory import check_size
from embedding_expansion.training.job import decoding_processes

#: Images with a shorter side, in pixels, are small: their details fit into the 32 pixels of conv4.
SMALL = 64
#: How long the steps of fine-tuning may take on the CPU, in seconds.
BUDGET = 10 * 60
_SAMPLE = 32  # images whose size is looked at
_TIMED = 8  # images that are embedded to estimate the time
_STEP = 3.5  # time of a training step, with its augmentation, divided by that of embedding its images


@dataclass(frozen=True)
class Recipe:
    """A recipe and why it was chosen.

    Attributes:
        name: its name.
        reason: why, as the rest of a sentence.
        defaults: full name of an option -> its default.
        images: how images are made square and why; empty where this was not measured.
    """

    name: RecipeName
    reason: str
    defaults: dict[str, Any]
    images: str = ""

    def __str__(self) -> str:
        """What is printed at the start of a run."""
        return f"recipe: {self.name}, {self.reason}" + (f"\nimages: {self.images}" if self.images else "")


def choose_recipe(given: TrainConfig, dataset: Dataset, *, timed: bool = True) -> Recipe:
    """Chooses the recipe of a run, unless the user has.

    Args:
        given: the options that the user has passed, with their own defaults otherwise.
        dataset: the data set of these options.
        timed: whether the time of fine-tuning on the CPU decides; without it the choice is the same on all machines.

    Raises:
        InvalidInput: the images are photographs, and no backbone is named, nor are weights of one in torch's cache; or
            the chosen recipe needs a pretrained backbone or a head, and there is none.
        UnknownName, DataError: there is no such backbone, or its weights cannot be read.
    """
    if given.model.backbone is not None or given.recipe == "scratch" or _is_small(dataset):
        return _chosen(given, dataset, timed)
    if given.model.has_weights:
        raise InvalidInput("weights are given, but not the backbone that they are for; pass --model.backbone NAME")
    name = cached_backbone()
    if name is None:
        raise InvalidInput(_three_ways(dataset))
    own = {"model.backbone": name, "model.pretrained": True}
    model = dataclasses.replace(given.model, backbone=name, pretrained=True)
    found = _chosen(dataclasses.replace(given, model=model), dataset, timed)
    reason = f"{found.reason}; {name}'s ImageNet weights are in torch's cache"
    return dataclasses.replace(found, reason=reason, defaults=found.defaults | own)


def _chosen(given: TrainConfig, dataset: Dataset, timed: bool) -> Recipe:
    has_start = given.model.has_weights and not dataset.train.holds_vectors and given.model.backbone not in OF_VECTORS
    _check_asked(given, has_start)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = has_start and timed and processes == 1 and find_device(given.device).type == "cpu"
    most = _steps_in_time(given) if on_cpu else MOST_STEPS
    name, reason = _suitable(given, dataset, most, has_start)
    if given.recipe is not None:
        name, reason = given.recipe, "as asked for"
    measurable = int((np.bincount(dataset.train.labels) > 1).sum())
    values = defaults(name, given, measurable)
    if name == "finetune":
        values["steps"] = finetuning_steps(_images_to_train_on(dataset, given), _batch(given), most)
    if processes > 1:  # which do not cross-validate
        values.pop("protocol", None)
    if dataset.transform != "crop_flip":  # the images of this set must not be cropped or mirrored
        values.pop("data.transform", None)
    if processes > 1 or "data.transform" not in values or given.data.transform is not None:
        return Recipe(name, reason, values)
    transform, images = _transform(given, dataset.train)
    return Recipe(name, reason, values | {"data.transform": transform}, images)


def _transform(given: TrainConfig, images: ImageSet) -> tuple[str, str]:
    """The transform that suits the images, and why."""
    with torch.random.fork_rng(devices=[]):
        model = make_model(given.model).to(find_device(given.device)).to(memory_format=torch.channels_last)
    size = _image_size(given, model)
    found = better_transform(model, images, size, workers=decoding_processes(given.data, images))
    if found is None:
        return SQUASHED, ""
    name, measured = found
    does, other = ("squashed", "cropped") if name == SQUASHED else ("cropped at the centre", "squashed")
    figures = f"{measured[name]:.3f} on a sample of the training images, against {min(measured.values()):.3f} {other}"
    return name, f"{does}, as MAP@R of the backbone is then {figures}"


def _image_size(given: TrainConfig, model: EmbeddingModel) -> int:
    size = model.image_size if given.data.image_size is None else given.data.image_size
    check_size(model, size, str(given.model.backbone))
    return size


def _check_asked(given: TrainConfig, has_start: bool) -> None:
    if given.recipe in ("head", "finetune") and not has_start:
        raise InvalidInput(
            f"the recipe {given.recipe} starts from a pretrained backbone of images; pass --model.backbone with "
            "--model.pretrained true or --model.weights FILE, or --recipe scratch"
        )
    if given.recipe == "head" and given.model.dim == "none":
        raise InvalidInput("the recipe head trains the head alone, but model.dim none has no head; pass only one")


def _suitable(given: TrainConfig, dataset: Dataset, most: int, has_start: bool) -> tuple[RecipeName, str]:
    """The recipe that suits the data, the backbone and the most steps that there is time for."""
    model = given.model
    if dataset.train.holds_vectors:
        return "scratch", "as the data are vectors"
    if not has_start:
        return "scratch", "as the images are small" if _is_small(dataset) else f"as {model.backbone} has random weights"
    if model.freeze_backbone:
        return "head", "as model.freeze_backbone is true"
    reason = f"as {model.backbone or 'conv4'} has weights"
    if model.dim == "none" or given.warmup_head:
        return "finetune", reason
    if most >= FEWEST_STEPS:
        return "finetune", f"{reason}; --recipe head trains only a head on its frozen features, which is faster"
    minutes = math.ceil(BUDGET / 60 * FEWEST_STEPS / max(1, most))
    threads = f"{torch.get_num_threads()} CPU threads"
    return "head", f"as fine-tuning takes at least {minutes} min on {threads}; --recipe finetune does it all the same"


def _steps_in_time(given: TrainConfig) -> int:
    """The steps for which there is time, from the time in which the backbone embeds a few images on the CPU."""
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    with torch.random.fork_rng(devices=[]):
        model = make_model(given.model, fetch_weights=not given.model.pretrained)
    model.to(memory_format=torch.channels_last)
    size = _image_size(given, model)
    images = torch.zeros(_TIMED, model.channels, size, size, dtype=torch.uint8)
    took = []
    for _ in range(3):  # the first one is slower
        began = time.perf_counter()
        model.embed(images)
        took.append(time.perf_counter() - began)
    return int(BUDGET / (min(took) / _TIMED * _batch(given) * _STEP))


def _batch(given: TrainConfig) -> int:
    """The images of a batch of a pretrained backbone."""
    return (given.sampler.classes_per_batch or CLASSES_OF_PRETRAINED) * given.sampler.images_per_class


def _images_to_train_on(dataset: Dataset, given: TrainConfig) -> int:
    """The number of training images that remain if some classes are held out."""
    if given.protocol != "validation" or len(dataset.train.classes) < 4:
        return len(dataset.train)
    return len(hold_out_classes(dataset.train, given.validation_share, given.seed)[0])


def _is_small(dataset: Dataset) -> bool:
    """Whether the set has small images, drawings of characters or vectors, for which conv4 and linear are made."""
    return dataset.train.holds_vectors or dataset.transform != "crop_flip" or short_side(dataset.train) < SMALL


def short_side(images: ImageSet) -> float:
    """The median of the shorter side, in pixels, of a sample of images; broken ones do not count."""
    if images.pixels is not None:
        return float(min(images.pixels.shape[2:]))
    sides = []
    for index in np.linspace(0, len(images) - 1, min(_SAMPLE, len(images))).round().astype(int).tolist():
        try:
            with Image.open(images.path(index), formats=FORMATS) as image:
                sides.append(min(image.size))
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
    return float(statistics.median(sides)) if sides else 0.0


def _three_ways(dataset: Dataset) -> str:
    return (
        f"the images of {dataset.name} are photographs, which need a pretrained backbone; pass --model.backbone "
        "resnet50 --model.pretrained true to download weights, --model.backbone NAME --model.weights FILE.safetensors "
        "to use a file, or --model.backbone conv4 to train a small network from scratch"
    )
