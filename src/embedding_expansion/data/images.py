"""Image sets and data sets, and reading an image file as a tensor."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from embedding_expansion.data.decoding import decode
from embedding_expansion.data.prepared import Prepared
from embedding_expansion.errors import DataError, InvalidInput


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split (train or test) of a data set: labels, and either image files or pixels in memory.

    Pass either `paths` or `pixels`.

    Attributes:
        labels: (n,), int64; `class_names[labels[i]]` is the class of image i. An opened set numbers its classes 0, 1,
            ... without gaps; a `subset` keeps the numbers of the original set.
        class_names: one name per class.
        paths: n image files, or None.
        pixels: (n, c, h, w), uint8, or None. Vectors are float32 images of one pixel, (n, d, 1, 1).
        names: n texts that name the images in outputs, such as the names of the originals of shrunk images, or the
            texts that were embedded as vectors; None for the names of the files, or numbers.
        is_query: (n,), bool, the images that are queries; None for leave-one-out, each image against all others.
        is_gallery: (n,), bool, the images in the gallery; None if `is_query` is None.

    Raises:
        InvalidInput: lengths differ, or both or neither of `paths` and `pixels` are given.
    """

    labels: npt.NDArray[Any]
    class_names: tuple[str, ...]
    paths: tuple[Path, ...] | None = None
    pixels: npt.NDArray[Any] | None = None
    names: tuple[str, ...] | None = None
    is_query: npt.NDArray[Any] | None = None
    is_gallery: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if (self.paths is None) == (self.pixels is None):
            raise InvalidInput("paths and pixels are both given or both missing; pass one of them")
        if (self.is_query is None) != (self.is_gallery is None):
            raise InvalidInput("only one of is_query and is_gallery is given; pass both or neither")
        for name in ("paths", "pixels", "names", "is_query", "is_gallery"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.labels):
                raise InvalidInput(
                    f"{name} has {len(value)} entries but labels has {len(self.labels)}; pass one entry per image"
                )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise InvalidInput(
                f"labels has values from {self.labels.min()} to {self.labels.max()}, but there are "
                f"{len(self.class_names)} class names; pass indices of class_names"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """The number of channels: 3 for image files, which are decoded to RGB, otherwise that of the pixels."""
        return 3 if self.pixels is None else int(self.pixels.shape[1])

    @property
    def holds_vectors(self) -> bool:
        """Whether the set holds vectors instead of images."""
        return self.pixels is not None and self.pixels.dtype != np.uint8

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The labels that occur, in ascending order."""
        return np.unique(self.labels)

    def load(self, index: int, least: int | None = None) -> Tensor:
        """Loads image `index` as a uint8 tensor (channels, h, w); files are decoded to RGB.

        Args:
            index: the image.
            least: for files, how many pixels of the short side are needed, see `decoding.decode`; None for all.

        Raises:
            DataError: the file is missing or broken. The message names its path.
        """
        if self.pixels is not None:
            return torch.from_numpy(self.pixels[index])
        return read_image(self.path(index), least)

    def path(self, index: int) -> Path:
        """The file of image `index`; for pixels in memory an artificial path, `<class>/<index>`."""
        if self.paths is None:
            return Path(self.class_names[int(self.labels[index])]) / str(index)
        return self.paths[index]

    def called(self, index: int) -> str:
        """The name of image `index` for outputs: its name in `names`, its file name, or its number."""
        if self.names is not None:
            return self.names[index]
        return f"#{index}" if self.paths is None else self.paths[index].name

    def subset(self, indices: npt.NDArray[Any] | Sequence[int]) -> ImageSet:
        """Selects images by their indices, in that order; labels keep their numbers and class names."""
        chosen = np.asarray(indices, dtype=np.int64)
        return ImageSet(
            labels=self.labels[chosen],
            class_names=self.class_names,
            paths=None if self.paths is None else tuple(self.paths[i] for i in chosen),
            pixels=None if self.pixels is None else self.pixels[chosen],
            names=None if self.names is None else tuple(self.names[i] for i in chosen),
            is_query=None if self.is_query is None else self.is_query[chosen],
            is_gallery=None if self.is_gallery is None else self.is_gallery[chosen],
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for zero-shot metric learning: the test classes are not seen in training.

    Attributes:
        name: the name in outputs; for a part of a set it says that it is a part.
        train: the training split.
        test: the test split.
        recall_at: the K of Recall@K that papers report for this set.
        transform: the name of a suitable training transform (see `transforms.TRANSFORMS`).
        left_out: for a folder, one line on the files and folders in it that are not in the set; empty if there are
            none.
        prepared: for a set of shrunk images, from what they were made; otherwise None.

    Raises:
        DataError: a split has no image.
    """

    name: str
    train: ImageSet
    test: ImageSet
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    transform: str = "crop_flip"
    left_out: str = ""
    prepared: Prepared | None = None

    def __post_init__(self) -> None:
        for split, images in (("train", self.train), ("test", self.test)):
            if not len(images):
                raise DataError(f"{self.name} has no {split} images; add some, since both splits need images")


def image_files(paths: Sequence[Path], keys: Sequence[Any], names: Mapping[Any, str] | None = None) -> ImageSet:
    """Makes an image set of files, with classes numbered in the order of their keys.

    Args:
        paths: one file per image.
        keys: the class of each image, any values that can be sorted.
        names: the name of each class by its key; by default the key as text.
    """
    ordered: list[Hashable] = sorted(set(keys))
    number = {key: label for label, key in enumerate(ordered)}
    labels = np.array([number[key] for key in keys], dtype=np.int64)
    return ImageSet(labels, tuple(str(key) if names is None else names[key] for key in ordered), paths=tuple(paths))


def read_image(path: Path, least: int | None = None) -> Tensor:
    """Decodes an image file to an upright uint8 tensor (3, h, w); see `decoding.decode`.

    Raises:
        DataError: the file is missing or cannot be decoded. The message names its path.
    """
    return torch.from_numpy(decode(path, least=least)).permute(2, 0, 1).contiguous()
