"""The two nouns of this folder, ImageSet and Dataset, and how one image file becomes a tensor."""

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
from embedding_expansion.errors import DataError, InvalidInput


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One side (train or test) of a data set: labels, and either image files or pixels in memory.

    Attributes:
        labels: int64, shape (n,); `class_names[labels[i]]` is the class of image i. A set as opened numbers its classes
            0, 1, ... without gaps; a `subset` keeps the numbers of the set that it was taken from.
        class_names: one name per class.
        paths: n image files, or None.
        pixels: uint8, shape (n, c, h, w), or None; of vectors float32, (n, d, 1, 1): images of one pixel. Exactly one
            of `paths` and `pixels` is given.
        names: n texts, what each is called where there are pixels or vectors, such as the text that a vector stands
            for; or None.
        is_query: bool, shape (n,): the images that are searched for, or None (leave-one-out: each against all others).
        is_gallery: bool, shape (n,): the images that are searched in, or None with `is_query`.

    Raises:
        InvalidInput: if the lengths differ, or not exactly one of `paths` and `pixels` is given.
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
            raise InvalidInput("an ImageSet needs either paths or pixels, not both and not neither")
        if (self.is_query is None) != (self.is_gallery is None):
            raise InvalidInput("is_query and is_gallery belong together; give both or neither")
        for name in ("paths", "pixels", "names", "is_query", "is_gallery"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.labels):
                raise InvalidInput(f"{name} has {len(value)} entries but labels has {len(self.labels)}; give one each")
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise InvalidInput(f"labels must lie in 0..{len(self.class_names) - 1}, the classes that have a name")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """3 for image files (decoded to RGB), the pixels' own number of channels otherwise."""
        return 3 if self.pixels is None else int(self.pixels.shape[1])

    @property
    def holds_vectors(self) -> bool:
        """Whether these are vectors and no images."""
        return self.pixels is not None and self.pixels.dtype != np.uint8

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The labels that occur, in ascending order."""
        return np.unique(self.labels)

    def load(self, index: int) -> Tensor:
        """Image `index` as a uint8 tensor (channels, h, w); files are decoded to RGB.

        Raises:
            DataError: if the file is missing or broken; names its path.
        """
        if self.pixels is not None:
            return torch.from_numpy(self.pixels[index])
        return read_image(self.path(index))

    def path(self, index: int) -> Path:
        """The file of image `index`; for pixels in memory a made-up name, `<class>/<index>`."""
        if self.paths is None:
            return Path(self.class_names[int(self.labels[index])]) / str(index)
        return self.paths[index]

    def called(self, index: int) -> str:
        """What image `index` is called: its file, its name, or its number."""
        if self.paths is not None:
            return self.paths[index].name
        return f"#{index}" if self.names is None else self.names[index]

    def subset(self, indices: npt.NDArray[Any] | Sequence[int]) -> ImageSet:
        """The images at `indices`, in that order; labels keep their numbers and names."""
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
    """A data set for zero-shot metric learning: the test classes are not those trained on.

    Attributes:
        name: as printed in every output; a part of a set says that it is one.
        train: the side that is trained on.
        test: the side that is measured on.
        recall_at: the K of Recall@K that papers report on it.
        transform: the name of the training transform that suits it (see `transforms.TRANSFORMS`).
        left_out: of a folder: which files and folders in it are not in the set, in a line; empty if none are.

    Raises:
        DataError: if a side has no image.
    """

    name: str
    train: ImageSet
    test: ImageSet
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    transform: str = "crop_flip"
    left_out: str = ""

    def __post_init__(self) -> None:
        for side, images in (("train", self.train), ("test", self.test)):
            if not len(images):
                raise DataError(f"{self.name} has no {side} images; both sides, train and test, need some")


def image_files(paths: Sequence[Path], keys: Sequence[Any], names: Mapping[Any, str] | None = None) -> ImageSet:
    """The image files of one side, their classes numbered in the order of their keys.

    Args:
        paths: one file per image.
        keys: the class of each image: any values that can be sorted.
        names: what to call each class; by default its key.
    """
    ordered: list[Hashable] = sorted(set(keys))
    number = {key: label for label, key in enumerate(ordered)}
    labels = np.array([number[key] for key in keys], dtype=np.int64)
    return ImageSet(labels, tuple(str(key) if names is None else names[key] for key in ordered), paths=tuple(paths))


def read_image(path: Path) -> Tensor:
    """Decode an image file to a uint8 tensor (3, h, w), upright; see `decoding.decode`.

    Raises:
        DataError: if the file is missing or cannot be decoded; names its path.
    """
    return torch.from_numpy(decode(path)).permute(2, 0, 1).contiguous()
