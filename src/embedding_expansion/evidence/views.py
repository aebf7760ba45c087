"""The features of a frozen backbone on several views of each training image, computed once and kept in a file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.errors import DataError
from embedding_expansion.model.weights import load_tensors, save_tensors
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.job import Job, prepare

#: Views of a training image besides its own two, plain and mirrored: random crops, half of them mirrored.
CROPS = 6
_AT_ONCE = 32  # images decoded at once
_AGAIN = "remove it, and the features are computed again"


@dataclass(frozen=True)
class Views:
    """Features of a data set.

    Attributes:
        train: (v, n, w), the views of the training images; the first one is that of the test transform.
        test: (m, w), the test images.
    """

    train: Tensor
    test: Tensor


def views_of(dataset: Dataset, config: TrainConfig, path: Path) -> Views:
    """Reads the features from a file, or computes them and writes it.

    Args:
        dataset: the data set.
        config: a configuration with the backbone, its weights and the transform.
        path: the file.

    Raises:
        DataError: an image cannot be read.
        RunError: the file is broken or cannot be written.
    """
    about = {"data": dataset.name, "transform": config.data.transform, "size": config.data.image_size}
    about |= {"backbone": config.model.backbone, "weights": _digest(config.model.weights), "crops": CROPS}
    if not path.exists():
        print(
            f"computing the features of {dataset.name}: {len(dataset.train):,} training images in {CROPS + 2} views, "
            f"{len(dataset.test):,} test images",
            flush=True,
        )
        save_tensors(path, dataclasses.asdict(_computed(dataset, config)), about)
    tensors, was = load_tensors(path, _AGAIN)
    found = Views(tensors["train"], tensors["test"])
    if was != about:
        raise DataError(f"{path} has features that were computed otherwise; {_AGAIN}")
    if (found.train.shape[1], len(found.test)) != (len(dataset.train), len(dataset.test)):
        raise DataError(f"{path} has the features of other images; {_AGAIN}")
    return found


def _digest(weights: str | None) -> str | None:
    return None if weights is None else hashlib.blake2b(Path(weights).read_bytes(), digest_size=16).hexdigest()


@torch.no_grad()
def _computed(dataset: Dataset, config: TrainConfig) -> Views:
    job = prepare(dataclasses.replace(config, seed=0, sampler=TrainConfig().sampler, threads=None))
    job.model.eval()
    torch.manual_seed(0)  # of the crops
    train = _features(job, dataset.train, lambda image: _all_views(job, image))
    test = _features(job, dataset.test, lambda image: job.test_transform(image)[None])
    return Views(train.reshape(len(dataset.train), CROPS + 2, -1).transpose(0, 1).contiguous(), test)


def _all_views(job: Job, image: Tensor) -> Tensor:
    """The views of an image (v, c, size, size)."""
    plain = job.test_transform(image)
    return torch.stack([plain, plain.flip(-1), *(job.train_transform(image) for _ in range(CROPS))])


def _features(job: Job, images: ImageSet, views: Callable[[Tensor], Tensor]) -> Tensor:
    """The features of all views, image by image."""
    features = []
    for start in range(0, len(images), _AT_ONCE):
        pixels = torch.cat([views(images.load(index)) for index in range(start, min(start + _AT_ONCE, len(images)))])
        features.append(job.model.features(pixels.to(job.device)).float().cpu())
    return torch.cat(features)
