"""A training job: the data, network, loss, optimiser and batches of a configuration."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.loader import batches
from embedding_expansion.data.reading import ReadingClock
from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.data.transforms import ImageTransform, test_transform, train_transform
from embedding_expansion.errors import InvalidInput
from embedding_expansion.generation.method import Method
from embedding_expansion.model.network import EmbeddingModel, check_embeddings
from embedding_expansion.model.trained import find_device
from embedding_expansion.runs.options import DataConfig, Precision, TrainConfig
from embedding_expansion.training.evaluation import average_flips, can_be_measured, embed_images, model_embedder
from embedding_expansion.training.factory import (
    check_size,
    make_loss,
    make_method,
    make_network,
    make_optimizer,
    sized,
    suited,
)
from embedding_expansion.training.split import Split, draw, located, open_data
from embedding_expansion.training.state import step_seed

#: The features of image sets and the readable images of each, by the identity of the set and whether it is mirrored.
Features: TypeAlias = dict[tuple[int, bool], tuple[Tensor, ImageSet]]


@dataclass
class Job:
    """Everything that the training loop needs, with a fully resolved configuration."""

    config: TrainConfig
    dataset: Dataset
    train: ImageSet
    validation: ImageSet | None  # held-out training classes
    classes: npt.NDArray[np.int64]  # numbers of the training classes, including classes whose images are missing
    model: EmbeddingModel
    loss: PairLoss | Method  # a method trains the loss that is inside it
    optimizer: torch.optim.Optimizer
    device: torch.device
    precision: Precision
    train_transform: ImageTransform
    test_transform: ImageTransform
    workers: int
    average: EmbeddingModel | None = None  # average of the weights, which is evaluated and kept instead of them
    broken: dict[Path, str] = field(default_factory=dict)  # unreadable images -> reason
    features: Features = field(default_factory=dict)  # cache for a frozen backbone
    views: Tensor | None = None  # (v, n, w), features of v views of each training image, one of which a step draws
    changes: list[str] = field(default_factory=list)  # changes to the data since the run was started
    clock: ReadingClock = field(default_factory=ReadingClock)  # what the run has waited for

    @property
    def selects_on(self) -> ImageSet | None:
        """The images that select the weights to keep; None if the last weights are kept."""
        if self.config.protocol == "paper":
            return self.dataset.test
        held = self.validation
        return held if held is not None and can_be_measured(held) else None

    @property
    def held_out_classes(self) -> list[str]:
        """The names of the validation classes."""
        held = self.validation
        return [] if held is None else sorted(held.class_names[number] for number in held.classes.tolist())

    @property
    def shown(self) -> EmbeddingModel:
        """The model to evaluate and keep: the average, if there is one."""
        return self.model if self.average is None else self.average

    @property
    def batch_size(self) -> int:
        """Images per batch, over all ranks."""
        return (self.config.sampler.classes_per_batch or 0) * self.config.sampler.images_per_class

    @property
    def network(self) -> nn.Module:
        """The trained network: the model, or its head if the backbone is frozen."""
        return self.model.head if self.config.model.freeze_backbone else self.model

    def features_and_embeddings(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the head gets of a batch, and what it makes of it; cached features are their own."""
        features = inputs if self.config.model.freeze_backbone else self.model.features(inputs)
        return features, self.model.head(features)

    def cache_features(self) -> None:
        """Computes the features of a frozen backbone, from which all batches are taken."""
        if self.config.model.freeze_backbone:
            self._cached(self.train)

    def batches(self, start: int, share: slice) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yields (step, images or cached features, labels) from a step on, for a rank's share of each batch.

        A batch is a function of seed and step. The training classes are numbered from 0 in the order of their labels,
        as proxy losses expect; the labels themselves have gaps where classes are held out.
        """
        classes = torch.from_numpy(self.classes)
        for step, inputs, labels in self._drawn(start, share):
            yield step, inputs, torch.searchsorted(classes, labels)

    def _drawn(self, start: int, share: slice) -> Iterator[tuple[int, Tensor, Tensor]]:
        config = self.config
        if config.model.freeze_backbone:
            features, images = self._cached(self.train)
            sampler, labels = make_sampler(images, config), torch.from_numpy(images.labels)
            for step in range(start, config.steps):
                rows = torch.from_numpy(sampler.batch(step))
                inputs = features[rows] if self.views is None else self._one_view(rows, step)
                yield step, inputs[share], labels[rows[share]]
            return
        yield from batches(
            self.train,
            make_sampler(self.train, config),
            self.train_transform,
            seed=config.seed,
            start=start,
            stop=config.steps,
            rows=share,
            workers=self.workers,
            broken=self.broken,
            clock=self.clock,
        )

    def _one_view(self, rows: Tensor, step: int) -> Tensor:
        """The features of one view of each row, drawn by seed and step."""
        assert self.views is not None
        draw = torch.Generator().manual_seed(step_seed(self.config.seed, step))
        return self.views[torch.randint(len(self.views), rows.shape, generator=draw), rows]

    def embed(self, images: ImageSet) -> tuple[Tensor, ImageSet]:
        """Embeds an image set with the current model; returns the L2-normalised embeddings and the readable images.

        Raises:
            NotFinite: an embedding is NaN or infinite.
        """
        if self.config.model.freeze_backbone:
            return self._from_features(images, self.shown.head)
        embedder = model_embedder(self.shown, self.device, self.precision, flip=self.config.flip)
        return self.run_over(images, embedder)

    def embed_with_backbone(self, images: ImageSet, transform: ImageTransform | None = None) -> tuple[Tensor, ImageSet]:
        """As `embed`, with the current backbone alone: the L2-normalised features that the head would get.

        Args:
            images: the image set.
            transform: the transform of the images; default: the test transform.
        """
        if self.config.model.freeze_backbone and transform is None:
            return self._from_features(images, nn.Identity())
        embedder = model_embedder(self.shown, self.device, self.precision, flip=self.config.flip, head=False)
        return self.run_over(images, embedder, transform)

    @torch.no_grad()
    def _from_features(self, images: ImageSet, head: nn.Module) -> tuple[Tensor, ImageSet]:
        """Embeds the cached features of an image set, and those of its mirror images if `flip` is set."""
        sides = [self._cached(images, mirrored) for mirrored in (False, *([True] if self.config.flip else []))]
        vectors = [check_embeddings(functional.normalize(head(features).float(), dim=1)) for features, _ in sides]
        return average_flips(*vectors) if len(vectors) > 1 else vectors[0], sides[0][1]

    def tested(self) -> Tested:
        """Embeds the test images with the current model.

        Raises:
            NotFinite: an embedding is NaN or infinite.
        """
        return Tested(self, *self.embed(self.dataset.test))

    def run_over(
        self, images: ImageSet, function: Callable[[Tensor], Tensor], transform: ImageTransform | None = None
    ) -> tuple[Tensor, ImageSet]:
        """Applies a function of uint8 images to a set, with the test transform; also returns the readable images."""
        transform = self.test_transform if transform is None else transform
        return embed_images(function, images, transform, workers=self.workers, broken=self.broken, clock=self.clock)

    def features_of(self, images: ImageSet, mirrored: bool = False) -> tuple[Tensor, ImageSet]:
        """The pooled features of an image set with the current backbone, not normalised: what the head gets."""
        return (self._cached if self.config.model.freeze_backbone else self._features)(images, mirrored)

    def _cached(self, images: ImageSet, mirrored: bool = False) -> tuple[Tensor, ImageSet]:
        """The cached features of an image set or of its mirror images. The identity of the set is the key."""
        key = (id(images), mirrored)
        if key not in self.features:
            self.features[key] = self._features(images, mirrored)
        return self.features[key]

    def _features(self, images: ImageSet, mirrored: bool) -> tuple[Tensor, ImageSet]:
        self.model.eval()

        @torch.no_grad()
        def features(pixels: Tensor) -> Tensor:
            return self.model.features((pixels.flip(-1) if mirrored else pixels).to(self.device))

        return self.run_over(images, features)


@dataclass(frozen=True)
class Tested:
    """A job with the embeddings of its readable test images."""

    job: Job
    vectors: Tensor  # (n, d)
    images: ImageSet


def prepare(config: TrainConfig, split: Split | None = None, *, fetch_weights: bool = True) -> Job:
    """Builds a job, and resolves all options that the configuration leaves open.

    Args:
        config: the configuration of the run.
        split: the data; None opens and splits it as for a new run.
        fetch_weights: whether to load pretrained weights; False if a checkpoint replaces all weights anyway.

    Raises:
        InvalidInput, UnknownName, DataError: the configuration is invalid, or names something that does not exist.
    """
    device = find_device(config.device)
    precision = _precision(config.precision, device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    config = dataclasses.replace(config, data=located(config.data))
    if split is None:
        split = draw(open_data(config.data), config)
    dataset, train, validation = split.dataset, split.train, split.validation
    sampler = make_sampler(train, config)  # reports too few classes before the first evaluation
    torch.manual_seed(config.seed)
    loss = make_loss(config, len(split.classes)).to(device)  # reports a wrong option before weights are fetched
    config = dataclasses.replace(config, model=suited(config, dataset.train))
    model, model_config = make_network(config, train, device, fetch_weights)
    if isinstance(config.model.dim, str):
        torch.manual_seed(config.seed)
        loss = make_loss(sized(config, model), len(split.classes)).to(device)
    size = model.image_size if config.data.image_size is None else config.data.image_size
    transform = dataset.transform if config.data.transform is None else config.data.transform
    check_size(model, size, str(model_config.backbone))
    resolved = dataclasses.replace(
        config,
        sampler=dataclasses.replace(config.sampler, classes_per_batch=sampler.classes_per_batch),
        data=dataclasses.replace(
            config.data, image_size=size, transform=transform, workers=decoding_processes(config.data, dataset.train)
        ),
        model=model_config,
        expansion=config.expansion.resolved,
        device=device.type if config.device == "auto" else config.device,
        precision=precision,
        threads=torch.get_num_threads(),
    )
    trained = make_method(resolved, loss, model, len(split.classes)) if config.has_method else loss
    return Job(
        config=resolved,
        dataset=dataset,
        train=train,
        validation=validation,
        classes=split.classes,
        model=model,
        loss=trained,
        optimizer=make_optimizer(config.optimizer, model, trained),
        device=device,
        precision=precision,
        train_transform=train_transform(size, transform),
        test_transform=test_transform(size, transform),
        workers=resolved.data.workers or 0,
        average=None if config.ema is None else copy.deepcopy(model).requires_grad_(False).eval(),
    )


def make_sampler(images: ImageSet, config: TrainConfig) -> ClassBalancedSampler:
    """Builds the batch sampler.

    Raises:
        InvalidInput: the image set has fewer classes than a batch.
    """
    classes = config.sampler.classes_per_batch
    if classes is None:
        classes = min(config.classes_per_batch, len(images.classes))
    return ClassBalancedSampler(images.labels, classes, config.sampler.images_per_class, config.seed)


def _precision(name: Precision, device: torch.device) -> Precision:
    if device.type == "cuda":
        return "bfloat16" if name == "auto" else name
    if name not in ("auto", "float32"):
        raise InvalidInput(f"precision is {name}, which is for CUDA only; pass float32 on {device.type}")
    return "float32"


def decoding_processes(data: DataConfig, images: ImageSet) -> int:
    """The number of processes that decode images: as given, or up to 4, and 0 if the images are in memory."""
    if data.workers is not None:
        return data.workers
    return 0 if images.pixels is not None else min(4, os.cpu_count() or 1)
