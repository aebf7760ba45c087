"""Embeds images with a trained run or an exported model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedding_expansion.checks import as_limit, as_whole, validates
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import DataError, EmbeddingExpansionError, InvalidInput, RunError
from embedding_expansion.inference.manifest import FILES, MANIFEST, Manifest, read_manifest
from embedding_expansion.inference.networks import Network, onnx_network, torch_network
from embedding_expansion.inference.pixels import as_pixels, one_or_many
from embedding_expansion.inference.prefetch import prefetch
from embedding_expansion.inference.thresholds import Thresholds, read_thresholds, thresholds_json

if TYPE_CHECKING:
    from embedding_expansion.inference.pixels import ImageLike

#: Number of decoding threads, and number of batches that they prefetch.
THREADS, AHEAD = min(4, os.cpu_count() or 1), 2
#: The largest batch size. Up to three batches of decoded images are in memory.
MOST_IN_A_BATCH = 16_384

Square: TypeAlias = npt.NDArray[np.uint8]


class Embedder:
    """A trained model that embeds images. Open one with `Embedder.load`.

    Embeddings are L2-normalised: the inner product of two embeddings is the cosine similarity of their images.

    Attributes:
        thresholds: the calibrated thresholds of similarity for "same or not" and "known or unknown", from
            `thresholds.json` beside the model; empty if there are none.
        batch_size: the number of images per batch.
    """

    @validates
    def __init__(
        self, network: Network, manifest: Manifest, device: str, thresholds: Thresholds, batch_size: int = 64
    ) -> None:
        self._network, self._manifest, self._device = network, manifest, device
        self.thresholds = thresholds
        self.batch_size = as_whole(batch_size, "batch_size", least=1, most=MOST_IN_A_BATCH)

    @classmethod
    @validates
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto", batch_size: int = 64) -> Embedder:
        """Opens a run folder or an export folder.

        An ONNX model runs in onnxruntime, without importing torch, torchvision or timm. A `torch` export (model.pt2) is
        refused, because `torch.export.load` unpickles and can execute code from the file. If you trust the file, call
        that function yourself.

        Args:
            path: the folder.
            device: the device: "auto", "cpu", "cuda", "cuda:1", ...
            batch_size: the number of images per batch, 1 to 16,384.

        Raises:
            RunError: there is no such folder, or one of its files is missing or broken.
            InvalidInput: the device does not exist, or a library that the model needs is not installed.
        """
        batch_size = as_whole(batch_size, "batch_size", least=1, most=MOST_IN_A_BATCH)
        folder = Path(path)
        if not folder.is_dir():
            raise RunError(f"the folder {folder} does not exist; pass a run folder or an export folder")
        thresholds = read_thresholds(folder)
        if not (folder / MANIFEST).exists():
            from embedding_expansion.inference.describe import describe_run
            from embedding_expansion.model.trained import load_trained

            trained = load_trained(folder)
            network, device = torch_network(trained.model, device)
            return cls(network, describe_run(folder, trained, "run"), device, thresholds, batch_size)
        manifest = read_manifest(folder)
        network, device = _exported(folder, manifest, device)
        return cls(network, manifest, device, thresholds, batch_size)

    @property
    def dimensions(self) -> int:
        """Number of dimensions of the embedding."""
        return self._manifest.dimensions

    @property
    def image_size(self) -> int:
        """Side of the model's square input images, in pixels."""
        return self._manifest.preprocessing.size

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of decoded images."""
        return self._manifest.preprocessing

    def describe(self) -> dict[str, Any]:
        """Describes the model as JSON values: the content of model.json, the device and the thresholds."""
        return self._manifest.content | {"device": self._device, "thresholds": thresholds_json(self.thresholds)}

    def entry(self, *keys: str) -> str | None:
        """An entry of model.json as text, such as `entry("training", "data")`; None if it is missing."""
        return self._manifest.entry(*keys)

    def told(self, *keys: str) -> str | None:
        """The former name of `entry`, kept for one release."""
        warnings.warn("Embedder.told is now called Embedder.entry", DeprecationWarning, stacklevel=2)
        return self.entry(*keys)

    @validates
    def embed(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        flip: bool = False,
        broken: dict[int, str] | None = None,
        max_pixels: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Returns the L2-normalised embeddings of images, float32, (n, d).

        Args:
            images: one image or an iterable of images, in any mix of types: paths, bytes of image files, Pillow images,
                uint8 arrays (h, w, 3) or grey (h, w), and tensors (3, h, w), uint8 or floating in 0..1. Generators are
                read lazily.
            flip: whether to average the embeddings of each image and its mirror image, and normalise again.
            broken: a dictionary that collects images which cannot be decoded, position -> reason; they are skipped.
                None raises an error instead.
            max_pixels: the maximum number of pixels of an image; None means `PIL.Image.MAX_IMAGE_PIXELS` (89
                million), which is also the upper limit.

        Raises:
            DataError: an image cannot be decoded, and `broken` is None.
            InvalidInput, InvalidType: a value is not an image.
            RunError: an embedding is NaN or infinite.
        """
        most_pixels = as_limit(max_pixels, "max_pixels")
        rows, batch = [np.zeros((0, self.dimensions), dtype=np.float32)], list[Square]()
        with prefetch(
            lambda image: self.square(image, max_pixels=most_pixels),
            one_or_many(images),
            threads=THREADS,
            most=AHEAD * self.batch_size,
        ) as squares:
            for position, square in enumerate(squares):
                try:
                    batch.append(square.result())
                except DataError as error:
                    if broken is None:
                        raise DataError(f"images[{position}]: {error}") from error
                    broken[position] = str(error)
                except EmbeddingExpansionError as error:
                    raise type(error)(f"images[{position}]: {error}") from error
                if len(batch) == self.batch_size:
                    rows.append(self.embed_squares(batch, flip=flip))
                    batch = []
        if batch:
            rows.append(self.embed_squares(batch, flip=flip))
        return np.concatenate(rows)

    @validates
    def square(self, image: ImageLike, *, max_pixels: int | None = None) -> Square:
        """Decodes and preprocesses an image for the model: uint8, (image_size, image_size, 3). It is thread-safe.

        Args:
            image: as in `embed`.
            max_pixels: as in `embed`.

        Raises:
            DataError: the image cannot be decoded, or is too thin.
            InvalidInput, InvalidType: the value is not an image.
        """
        pixels = as_pixels(image, as_limit(max_pixels, "max_pixels"))
        try:
            return self._manifest.preprocessing(pixels)
        except InvalidInput as error:  # too thin
            raise DataError(f"{error}; crop or remove it") from error

    def embed_squares(self, squares: Sequence[Square], *, flip: bool = False) -> npt.NDArray[np.float32]:
        """Embeds one batch of preprocessed images.

        Args:
            squares: one or more results of `square`.
            flip: as in `embed`.

        Raises:
            RunError: an embedding is NaN or infinite.
        """
        batch = np.ascontiguousarray(np.stack(squares).transpose(0, 3, 1, 2))
        embeddings = self._network(batch)
        if flip:
            embeddings = _normalized(embeddings + self._network(np.ascontiguousarray(batch[:, :, :, ::-1])))
        if embeddings.shape != (len(batch), self.dimensions):
            raise RunError(
                f"the model returns {embeddings.shape} for {len(batch)} images, but model.json declares "
                f"{self.dimensions} dimensions; export the run again"
            )
        if not np.isfinite(embeddings).all():
            raise RunError("the model's embeddings are NaN or infinite; train it again")
        return embeddings


def _exported(folder: Path, manifest: Manifest, device: str) -> tuple[Network, str]:
    if manifest.format == "onnx":
        return onnx_network(folder / FILES["onnx"], device)
    if manifest.format == "torch":
        raise InvalidInput(
            f"{folder} contains a program of torch.export, which can execute code when loaded; if you trust it, call "
            "torch.export.load yourself, or export the run with --format onnx or safetensors"
        )
    from embedding_expansion.model.trained import load_trained

    return torch_network(load_trained(folder).model, device)


def _normalized(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scales rows to length 1. Zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return unit
