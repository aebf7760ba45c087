"""Embeds image sets and evaluates retrieval and clustering on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.loader import broken_sentence, evaluation_batches
from embedding_expansion.data.reading import ReadingClock
from embedding_expansion.data.transforms import ImageTransform
from embedding_expansion.errors import DataError
from embedding_expansion.model.network import EmbeddingModel, check_embeddings
from embedding_expansion.retrieval.clustering import clustering_metrics
from embedding_expansion.retrieval.inputs import chosen_rows
from embedding_expansion.retrieval.lists import list_metrics
from embedding_expansion.retrieval.metrics import retrieval_metrics
from embedding_expansion.retrieval.rerank.chain import post_processed_lists
from embedding_expansion.retrieval.rerank.steps import Steps

#: The share of the training classes that are held out by default, and their least number: on fewer classes the measure
#: says little about others.
SHARE, LEAST = 0.2, 5
RAW_SIZE = 32  # size for comparing raw pixels: 12 kB per image, so that the largest data sets fit into memory


def embed_images(
    embed: Callable[[Tensor], Tensor],
    images: ImageSet,
    transform: ImageTransform,
    *,
    workers: int,
    broken: dict[Path, str],
    clock: ReadingClock | None = None,
) -> tuple[Tensor, ImageSet]:
    """Embeds an image set in its order.

    Args:
        embed: uint8 images (b, c, size, size) -> vectors (b, d).
        images: the images.
        transform: the transform to square images.
        workers: the number of decoding processes.
        broken: collects unreadable images, which are skipped.
        clock: counts how long this waits for images, and how long it computes.

        Returns:
            The vectors (n, d), float32, and the n readable images.

        Raises:
            DataError: no image can be read.
    """
    vectors, kept, clock = [], [], ReadingClock() if clock is None else clock
    for indices, pixels in evaluation_batches(images, transform, workers=workers, broken=broken, clock=clock):
        with clock.computes():
            vectors.append(embed(pixels).float())
        kept.append(indices)
    if not vectors:
        raise DataError(f"none of {len(images)} images can be read; {broken_sentence(broken)}")
    chosen = np.concatenate(kept)
    return torch.cat(vectors), images if len(chosen) == len(images) else images.subset(chosen)


def model_embedder(
    model: EmbeddingModel, device: torch.device, precision: str, *, flip: bool = False, head: bool = True
) -> Callable[[Tensor], Tensor]:
    """Returns a function from images to the L2-normalised embeddings of the model.

    Args:
        model: the model.
        head: whether to apply the head; False gives the features of the backbone.
        device: the device of the model.
        precision: the precision of training.
        flip: whether to average the embeddings of each image and its mirror image, and normalise again.

    Returns:
        The function. It raises NotFinite if an embedding is NaN or infinite.
    """

    function = model.embed if head else model.embed_with_backbone

    def embed(images: Tensor) -> Tensor:
        with autocast(device, precision):
            embeddings = check_embeddings(function(images.to(device)))
            return average_flips(embeddings, function(images.flip(-1).to(device))) if flip else embeddings

    return embed


def average_flips(embeddings: Tensor, mirrored: Tensor) -> Tensor:
    """The normalised mean of the embeddings of images and their mirror images."""
    return functional.normalize(embeddings + check_embeddings(mirrored), dim=1)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context with 16-bit arithmetic, or without effect if the precision is float32."""
    kind = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(device.type, dtype=kind, enabled=precision != "float32")


def raw_pixels(images: Tensor) -> Tensor:
    """The pixels as L2-normalised vectors."""
    return functional.normalize(images.flatten(1).float(), dim=1)


def measure(vectors: Tensor, images: ImageSet, recall_at: tuple[int, ...], *, seed: int) -> dict[str, float]:
    """Evaluates retrieval (Recall@K, Precision@1, R-precision, MAP@R) and clustering (NMI, F1, AMI)."""
    return measure_retrieval(vectors, images, recall_at) | clustering_metrics(vectors, images.labels, seed=seed)


def measure_retrieval(vectors: Tensor, images: ImageSet, recall_at: tuple[int, ...]) -> dict[str, float]:
    """Evaluates retrieval only, which is cheap."""
    return retrieval_metrics(
        vectors, images.labels, ks=recall_at, is_query=images.is_query, is_gallery=images.is_gallery
    )


def measure_post_processed(
    vectors: Tensor, images: ImageSet, recall_at: tuple[int, ...], steps: Steps, training: Tensor | None
) -> dict[str, Any]:
    """Evaluates retrieval as `measure_retrieval`, after post-processing; the result also has `steps`.

    Args:
        vectors: (n, d), the embeddings of the images.
        images: the n images.
        recall_at: the values of K for Recall@K.
        steps: the post-processing steps.
        training: embeddings of training classes to fit a whitening on, or None.
    """
    queries, gallery = (
        chosen_rows(images.is_query, "is_query", len(images)),
        chosen_rows(images.is_gallery, "is_gallery", len(images)),
    )
    place = np.full(len(images), -1)
    place[gallery] = np.arange(len(gallery))
    own, labels = place[queries], images.labels
    top = min(len(gallery), max(*recall_at, int(np.bincount(labels[gallery]).max())))
    lists = post_processed_lists(vectors[queries], vectors[gallery], top, steps, exclude=own, training=training)
    measures = list_metrics(lists, labels[queries], labels[gallery], recall_at, exclude=own)
    given = {name: value for name, value in dataclasses.asdict(steps).items() if value is not None}
    return measures | {"steps": given}


def can_be_measured(images: ImageSet) -> bool:
    """Whether retrieval on these images says anything: a class has two images, and there is another class."""
    counts = np.bincount(images.labels)
    return len(images.classes) > 1 and bool((counts > 1).any())


def consecutive_classes(images: ImageSet, seed: int) -> npt.NDArray[np.int64]:
    """The classes in the order of their names, from one that the seed draws, as if the first came after the last.

    Classes are held out in this order. Neighbours are often alike, such as the species of a family or the models of a
    make. If one of them is trained on, another is no longer unlike what was seen, as the test classes are.
    """
    classes = images.classes
    return np.roll(classes, -int(np.random.default_rng(seed).integers(len(classes))))


def hold_out_classes(images: ImageSet, share: float | None, seed: int) -> tuple[ImageSet, ImageSet]:
    """Splits the classes of a training set: a share (at least 2 classes) is held out for validation.

    Args:
        images: the training set.
        share: the share of the classes; None: a fifth, and at least 5 classes if as many are left to train on.
        seed: the seed of `consecutive_classes`, whose first ones are held out.

    Returns:
        The images to train on and the held-out images.

    Raises:
        DataError: there are fewer than 4 classes.
    """
    classes = images.classes
    if len(classes) < 4:
        raise DataError(
            f"the training set has {len(classes)} classes, too few to hold some out for validation; "
            "use --protocol last, or a set with 4 classes or more"
        )
    wanted = round((SHARE if share is None else share) * len(classes))
    least = min(LEAST, len(classes) // 2) if share is None else 2
    count = min(max(least, wanted), len(classes) - 2)
    drawn = consecutive_classes(images, seed)
    # Classes of one image come last: as there is nothing to find for it, they measure nothing.
    is_single = np.bincount(images.labels)[drawn] < 2
    held = drawn[np.argsort(is_single, kind="stable")][:count]
    is_held = np.isin(images.labels, held)
    return images.subset(np.flatnonzero(~is_held)), images.subset(np.flatnonzero(is_held))
