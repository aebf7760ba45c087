"""Images in, points out: a run or an exported model as one object, for programs that search, group or compare."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import DataError, EmbeddingExpansionError, InvalidInput, RunError
from embedding_expansion.inference.ahead import ahead
from embedding_expansion.inference.manifest import FILES, MANIFEST, Manifest, read_manifest
from embedding_expansion.inference.networks import Network, onnx_network, torch_network
from embedding_expansion.inference.pixels import as_pixels, one_or_many
from embedding_expansion.inference.thresholds import Thresholds, read_thresholds, thresholds_json

if TYPE_CHECKING:
    from embedding_expansion.inference.pixels import ImageLike

#: Threads that decode, and how many batches they are ahead of the network.
THREADS, AHEAD = min(4, os.cpu_count() or 1), 2
#: The largest batch; decoded images of three are in memory.
MOST_IN_A_BATCH = 16_384

Square: TypeAlias = npt.NDArray[np.uint8]


class Embedder:
    """A trained model that embeds images; `Embedder.load` opens one.

    Two images are the more alike the larger the inner product of their rows, which is their cosine.

    Attributes:
        thresholds: the similarities from which two images count as one class, and an image as known, as calibrated in
            `thresholds.json` beside the model; empty where there is none.
        batch_size: images that go through the model at once.
    """

    def __init__(
        self, network: Network, manifest: Manifest, device: str, thresholds: Thresholds, batch_size: int = 64
    ) -> None:
        if not 1 <= batch_size <= MOST_IN_A_BATCH:
            raise InvalidInput(f"batch_size is {batch_size}; pass 1 to {MOST_IN_A_BATCH:,}")
        self._network, self._manifest, self._device = network, manifest, device
        self.thresholds, self.batch_size = thresholds, batch_size

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto", batch_size: int = 64) -> Embedder:
        """Opens a run folder, or a folder that `embex export` made.

        An ONNX model is run by onnxruntime: neither torch nor torchvision nor timm is loaded. A `torch` export
        (model.pt2) is refused, since `torch.export.load` unpickles and so may run code that a file holds; whoever
        trusts the file calls that function.

        Args:
            path: of the folder.
            device: "auto", "cpu", "cuda", "cuda:1", ...
            batch_size: images that go through the model at once, 1 to 16,384.

        Raises:
            RunError: it is no such folder, or a file of it is missing or broken.
            InvalidInput: there is no such device, or a library that the model needs is missing.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise RunError(f"there is no folder {folder}; pass a run, or what embex export made of one")
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
        """Of the embedding."""
        return self._manifest.dimensions

    @property
    def image_size(self) -> int:
        """Side, in pixels, of the square that images are brought to."""
        return self._manifest.preprocessing.size

    @property
    def preprocessing(self) -> Preprocessing:
        """How decoded pixels become what the model sees."""
        return self._manifest.preprocessing

    def describe(self) -> dict[str, Any]:
        """What is known of the model, as JSON values: what model.json says, the device and the thresholds."""
        return self._manifest.content | {"device": self._device, "thresholds": thresholds_json(self.thresholds)}

    def told(self, *keys: str) -> str | None:
        """What model.json says somewhere, such as `told("training", "data")`; None where it says nothing."""
        return self._manifest.told(*keys)

    def embed(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        flip: bool = False,
        broken: dict[int, str] | None = None,
        max_pixels: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """The L2-normalised embeddings of images, float32, (n, d); no image gives (0, d).

        Args:
            images: one image or several: paths, bytes of files, Pillow images, arrays of uint8 (h, w, 3) or grey (h,
                w), tensors (3, h, w) of uint8 or of floats in 0..1, in any mixture. A generator is read as it goes.
            flip: average the embeddings of each image and of its mirror image, and normalise again.
            broken: where it is given, images that cannot be decoded are left out and entered here: position -> reason.
            max_pixels: the most pixels that an image may have; at most `PIL.Image.MAX_IMAGE_PIXELS` (89 million).

        Raises:
            DataError: an image cannot be decoded, and `broken` is not given; says which.
            InvalidInput, InvalidType: something that is no image; says which.
            RunError: the model gives NaN or infinity.
        """
        rows, batch = [np.zeros((0, self.dimensions), dtype=np.float32)], list[Square]()
        with ahead(
            lambda image: self.square(image, max_pixels=max_pixels),
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

    def square(self, image: ImageLike, *, max_pixels: int | None = None) -> Square:
        """What the model sees of an image: uint8, (image_size, image_size, 3). Threads may call it at the same time.

        Args:
            image: as in `embed`.
            max_pixels: as in `embed`.

        Raises:
            DataError: it cannot be decoded, or is too thin.
            InvalidInput, InvalidType: it is no image.
        """
        pixels = as_pixels(image, max_pixels)
        try:
            return self._manifest.preprocessing(pixels)
        except InvalidInput as error:  # too thin
            raise DataError(f"{error}; crop or remove it") from error

    def embed_squares(self, squares: Sequence[Square], *, flip: bool = False) -> npt.NDArray[np.float32]:
        """The embeddings of squares that `square` has made, all of them in one batch, which has at least one.

        Raises:
            RunError: the model gives NaN or infinity.
        """
        batch = np.ascontiguousarray(np.stack(squares).transpose(0, 3, 1, 2))
        embeddings = self._network(batch)
        if flip:
            embeddings = _normalized(embeddings + self._network(np.ascontiguousarray(batch[:, :, :, ::-1])))
        if embeddings.shape != (len(batch), self.dimensions):
            raise RunError(
                f"the model gives {embeddings.shape} for {len(batch)} images where model.json promises "
                f"{self.dimensions} dimensions; export the run again"
            )
        if not np.isfinite(embeddings).all():
            raise RunError("the model's weights give embeddings that are NaN or infinite; train it again")
        return embeddings


def _exported(folder: Path, manifest: Manifest, device: str) -> tuple[Network, str]:
    if manifest.format == "onnx":
        return onnx_network(folder / FILES["onnx"], device)
    if manifest.format == "torch":
        raise InvalidInput(
            f"{folder} holds a program of torch.export, which may unpickle what its file holds when loaded; if you "
            "trust it, call torch.export.load yourself, or export the run with --format onnx or safetensors"
        )
    from embedding_expansion.model.trained import load_trained

    return torch_network(load_trained(folder).model, device)


def _normalized(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return unit
