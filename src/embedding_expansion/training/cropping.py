"""Chooses between squashing images to a square and cutting the square from the middle, on training classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.transforms import ImageTransform, test_transform
from embedding_expansion.errors import DataError
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.training.evaluation import can_be_measured, embed_images, measure_retrieval, model_embedder

#: The two transforms, both with little augmentation. The first one, which cuts nothing off, wins a tie.
SQUASHED, CROPPED = "paper", "center_crop"
_MOST, _OF_A_CLASS = 400, 10  # images that are embedded with each; of a class at least, if it has them


def better_transform(
    model: EmbeddingModel, images: ImageSet, size: int, *, workers: int
) -> tuple[str, dict[str, float]] | None:
    """The transform with which the backbone as it comes finds more images of the same class.

    The features of a sample of the training images are measured with the test side of both transforms. The difference
    can be large: for images that are already cropped to a car, another crop nearly halves MAP@R (docs/recipes.md).

    Args:
        model: the model with its pretrained weights; its head is not used.
        images: the training images.
        size: the side of the square in pixels.
        workers: the number of decoding processes.

    Returns:
        The name of the transform, and the MAP@R of each. None if there are too few images to measure anything, or none
        that can be read.
    """
    sample = _sample(images)
    if not can_be_measured(sample):
        return None
    device = next(model.parameters()).device
    embed = model_embedder(model.eval(), device, "float32", head=False)
    transforms = [test_transform(size, name) for name in (SQUASHED, CROPPED)]
    both = ImageTransform(size, False, _Both(transforms), max(each.least or 0 for each in transforms))
    try:
        vectors, images = embed_images(lambda pixels: _each(embed, pixels), sample, both, workers=workers, broken={})
    except DataError:
        return None  # which the run itself reports
    found = {
        name: measure_retrieval(part.contiguous(), images, (1,))["map_at_r"]
        for name, part in zip((SQUASHED, CROPPED), vectors.chunk(2, dim=1), strict=True)
    }
    return max(found, key=lambda name: found[name]), found


class _Both(nn.Module):
    """Applies both transforms to an image (c, h, w), which is decoded only once, and stacks the channels (2c, s, s)."""

    def __init__(self, each: list[ImageTransform]) -> None:
        super().__init__()
        self.each = each

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([transform(images) for transform in self.each], dim=-3)


def _each(embed: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """The features of images under both transforms (n, 2c, s, s), beside each other (n, 2w)."""
    return torch.cat([embed(part) for part in pixels.chunk(2, dim=1)], dim=1)


def _sample(images: ImageSet) -> ImageSet:
    """Up to `_MOST` images: classes at equal distances by name, and images at equal distances in each."""
    counts = np.bincount(images.labels)
    classes = np.flatnonzero(counts > 1)
    classes = classes[_spread(len(classes), _MOST // _OF_A_CLASS)]
    of_each = max(_OF_A_CLASS, _MOST // max(1, len(classes)))
    members = [np.flatnonzero(images.labels == label) for label in classes]
    rows = [rows[_spread(len(rows), of_each)] for rows in members]
    return images.subset(np.sort(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64))


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
