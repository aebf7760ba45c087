"""Inspects a data set: counts its classes and images, and finds broken files and problems for training."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.repeats import equal_bytes
from embedding_expansion.errors import DataError


@dataclass(frozen=True)
class SplitInspection:
    """What was found in one split.

    Attributes:
        classes: the number of classes.
        images: the number of images, including broken ones.
        smallest_class: the name of the class with the fewest images, the first one of several.
        smallest_count: the number of images of this class.
        single_classes: the number of classes with a single image, which have no positive pair and nothing to retrieve.
        queries: the number of queries; None if every image is one.
        gallery: the number of images in the gallery; None if every image is.
        sizes: the smallest and the largest (width, height) by area; None if no image was decoded.
        broken: the path of each image that cannot be decoded, with the reason.
    """

    classes: int
    images: int
    smallest_class: str
    smallest_count: int
    single_classes: int
    queries: int | None
    gallery: int | None
    sizes: tuple[tuple[int, int], tuple[int, int]] | None
    broken: dict[Path, str]


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect_dataset`.

    Attributes:
        name: of the data set.
        train: the training split.
        test: the test split.
        shared_classes: the names of classes in both splits. With these the test is not zero-shot.
        equal_bytes: for each test file that equals a training file byte for byte, the training file and the test file.
            Such test images were trained on.
        left_out: for a folder, one line on the content that is not in the set.
    """

    name: str
    train: SplitInspection
    test: SplitInspection
    shared_classes: tuple[str, ...]
    equal_bytes: tuple[tuple[Path, Path], ...] = ()
    left_out: str = ""


def inspect_dataset(dataset: Dataset, decode_all: bool = True) -> Inspection:
    """Inspects an opened data set.

    Args:
        dataset: the data set.
        decode_all: whether to decode every image, or only the first of each class.
    """
    shared = sorted(set(dataset.train.class_names) & set(dataset.test.class_names))
    return Inspection(
        name=dataset.name,
        train=_side(dataset.train, decode_all),
        test=_side(dataset.test, decode_all),
        shared_classes=tuple(shared),
        equal_bytes=tuple(equal_bytes(dataset.train.paths or (), dataset.test.paths or ())),
        left_out=dataset.left_out,
    )


def _side(images: ImageSet, decode_all: bool) -> SplitInspection:
    classes, first, counts = np.unique(images.labels, return_index=True, return_counts=True)
    smallest = int(counts.argmin())
    sizes: list[tuple[int, int]] = []
    broken: dict[Path, str] = {}
    for path, result in _decode(images, range(len(images)) if decode_all else first.tolist()):
        if isinstance(result, str):
            broken[path] = result
        else:
            sizes.append(result)
    area = sorted(sizes, key=lambda size: size[0] * size[1])
    return SplitInspection(
        classes=len(classes),
        images=len(images),
        smallest_class=images.class_names[int(classes[smallest])],
        smallest_count=int(counts[smallest]),
        single_classes=int(np.count_nonzero(counts == 1)),
        queries=None if images.is_query is None else int(np.count_nonzero(images.is_query)),
        gallery=None if images.is_gallery is None else int(np.count_nonzero(images.is_gallery)),
        sizes=(area[0], area[-1]) if area else None,
        broken=broken,
    )


def _decode(images: ImageSet, indices: range | list[int]) -> Iterator[tuple[Path, tuple[int, int] | str]]:
    """Yields the path of each image, with its (width, height) or the reason why it cannot be decoded; uses threads."""

    def one(index: int) -> tuple[Path, tuple[int, int] | str]:
        try:
            image = images.load(index)
        except DataError as error:
            return images.path(index), str(error)
        return images.path(index), (int(image.shape[-1]), int(image.shape[-2]))

    with ThreadPoolExecutor() as threads:
        yield from threads.map(one, indices)
