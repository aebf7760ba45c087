"""Checks an opened data set: what is in it, which files are broken, what will trouble training."""

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
    """What one side holds.

    Attributes:
        classes: how many.
        images: how many, the broken ones included.
        smallest_class: its name, the first of them in order.
        smallest_count: its number of images.
        single_classes: how many classes have one image only: no positive pair, nothing to retrieve.
        queries: how many images are queries, None where each is one.
        gallery: how many images are searched in, None where all are.
        sizes: smallest and largest (width, height) that was decoded, each by area; None if nothing was.
        broken: path and reason of each image that cannot be decoded.
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
    """What `inspect_dataset` found.

    Attributes:
        name: of the data set.
        train: the side that is trained on.
        test: the side that is measured on.
        shared_classes: names of classes on both sides: with these the test is not zero-shot.
        equal_bytes: a training file and a test file that are equal byte for byte, for each test file that has such a
            one: with these the test is of what was trained on.
        left_out: of a folder: what lies in it and is not in the set, in a line.
    """

    name: str
    train: SplitInspection
    test: SplitInspection
    shared_classes: tuple[str, ...]
    equal_bytes: tuple[tuple[Path, Path], ...] = ()
    left_out: str = ""


def inspect_dataset(dataset: Dataset, decode_all: bool = True) -> Inspection:
    """Look through a data set.

    Args:
        dataset: as opened.
        decode_all: whether to decode every image; otherwise only the first of each class.
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
    """The path and the (width, height) of each image, or why it has none. Decoding runs in threads."""

    def one(index: int) -> tuple[Path, tuple[int, int] | str]:
        try:
            image = images.load(index)
        except DataError as error:
            return images.path(index), str(error)
        return images.path(index), (int(image.shape[-1]), int(image.shape[-2]))

    with ThreadPoolExecutor() as threads:
        yield from threads.map(one, indices)
