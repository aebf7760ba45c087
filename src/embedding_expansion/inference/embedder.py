"""Embeds images with a trained run, an exported model, a backbone as it comes or a module."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from embedding_expansion.checks import as_limit, as_whole, validates
from embedding_expansion.data.preprocessing import Preprocessing, check_shape
from embedding_expansion.errors import DataError, EmbeddingExpansionError, InvalidInput, RunError
from embedding_expansion.inference.manifest import FILES, MANIFEST, TEXT, Manifest, entry_of, read_manifest
from embedding_expansion.inference.networks import Network, onnx_network, torch_network
from embedding_expansion.inference.pixels import as_pixels, one_or_many
from embedding_expansion.inference.prefetch import prefetch
from embedding_expansion.inference.stored_model import StoredModel
from embedding_expansion.inference.thresholds import Thresholds, read_thresholds, thresholds_json

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

    from embedding_expansion.inference.module_model import ModuleModel
    from embedding_expansion.inference.pixels import ImageLike
    from embedding_expansion.model.plain_backbone import PlainBackbone
    from embedding_expansion.model.towers import TextTower

#: Number of decoding threads, and number of batches that they prefetch.
THREADS, AHEAD = min(4, os.cpu_count() or 1), 2
#: The largest batch size. Up to three batches of decoded images are in memory.
MOST_IN_A_BATCH = 16_384

#: A preprocessed image: uint8 (size, size, 3), or what a transform of the user gives: float32 (c, h, w).
Square: TypeAlias = npt.NDArray[Any]


class Embedder:
    """A model that embeds images: open one with `Embedder.load` or `Embedder.from_backbone`, or make it of a module.

    Embeddings are L2-normalised: the inner product of two embeddings is the cosine similarity of their images.

    `Embedder(module, transform)` takes any torch module. It embeds, and its vectors go into an `Index`, but no index
    stores the model, because a file cannot hold a module and a function without code that would run when it is opened.

    Args:
        module: images (b, c, h, w) -> embeddings (b, d), not necessarily normalised. It is moved to the device and put
            into evaluation mode.
        transform: a function from a Pillow image in RGB to a floating tensor (c, h, w), such as the transforms of
            torchvision's weights and of timm. Several threads call it.
        device: the device: "auto", "cpu", "cuda", "cuda:1", ...
        batch_size: the number of images per batch, 1 to 16,384.

    Attributes:
        thresholds: the calibrated thresholds of similarity for "same or not" and "known or unknown", from
            `thresholds.json` beside the model; empty if there are none.
        batch_size: the number of images per batch.

    Raises:
        InvalidType: the module or the transform is something else.
        InvalidInput: an image cannot be embedded with them, or the device does not exist.

    Example:
        >>> from torchvision import models
        >>> weights = models.ResNet50_Weights.DEFAULT
        >>> network = models.resnet50(weights=weights)  # doctest: +SKIP
        >>> network.fc = torch.nn.Identity()  # doctest: +SKIP
        >>> Embedder(network, weights.transforms()).embed(["a.jpg", "b.jpg"]).shape  # doctest: +SKIP
        (2, 2048)
    """

    @validates
    def __init__(
        self,
        module: nn.Module,
        transform: Callable[[Image.Image], torch.Tensor],
        *,
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        from embedding_expansion.inference.module_model import ModuleModel

        batch_size = as_whole(batch_size, "batch_size", least=1, most=MOST_IN_A_BATCH)
        self._model: StoredModel | ModuleModel = ModuleModel(module, transform, device)
        self.thresholds: Thresholds = {}
        self.batch_size = batch_size

    @classmethod
    def _of(cls, model: StoredModel, thresholds: Thresholds, batch_size: int) -> Embedder:
        embedder = cls.__new__(cls)
        embedder._model, embedder.thresholds, embedder.batch_size = model, thresholds, batch_size
        return embedder

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
            manifest = describe_run(folder, trained, "run")
            return cls._of(StoredModel(network, manifest, device, folder), thresholds, batch_size)
        manifest = read_manifest(folder)
        network, device = _exported(folder, manifest, device)
        return cls._of(StoredModel(network, manifest, device, folder, _text(folder, manifest)), thresholds, batch_size)

    @classmethod
    @validates
    def from_backbone(
        cls,
        name: str,
        *,
        weights: str | os.PathLike[str] | None = None,
        pretrained: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int | None = None,
        pooling: Literal["avg", "gem"] = "avg",
        device: str = "auto",
        batch_size: int = 64,
    ) -> Embedder:
        """Opens a backbone as it comes, without training: its pooled, L2-normalised features are the embeddings.

        The features are those before the classifier. For towers of CLIP in timm, this is before the projection.

        **Normalisation and size** come from the first place that knows them: the arguments; the metadata of the weights
        file; a JSON file beside it (both described in `embedding_expansion.model.input_convention`); timm's
        `pretrained_cfg` of this name, or the preset of torchvision's default weights. `assumed` says it if only the
        last place knows the normalisation of a weights file, which may be wrong then.

        **Preprocessing** is resizing the short side and cutting the square from the middle, in the proportion that the
        same places give (timm's `crop_pct`, torchvision's `resize_size`), also for another `image_size`. Weights made
        for squashed images get squashed images. If no place gives it, 256/224 of the size is resized to, as in training
        on photographs. Differs from the conventions of some weights: resizing is always bilinear with antialiasing.

        Args:
            name: a name of torchvision, such as "resnet50", "timm/NAME" or "open_clip/NAME". A pair of towers of
                open_clip also embeds texts, see `embed_text`; its features are those after the projection.
            weights: a .safetensors file with the state dict of the backbone; the classifier may be missing.
            pretrained: whether to download weights through the library. With neither, the weights are random with
                seed 0, and `assumed` says so.
            mean: of the pixels in 0..1, one number per channel.
            std: their standard deviation.
            image_size: the side of the square images, 1 to 4,096 pixels. Convolutional networks and timm's ViTs take
                other sizes than their own; for ViTs, it must be a multiple of the size of a patch.
            pooling: "avg", or "gem", a generalised mean with exponent 3, for backbones with a feature map.
            device: the device: "auto", "cpu", "cuda", "cuda:1", ...
            batch_size: the number of images per batch, 1 to 16,384.

        Raises:
            UnknownName: there is no such backbone.
            InvalidInput: an option cannot be used, the weights are of another network, or a library is not installed.
            DataError: the weights cannot be read or downloaded, or what they say about their input is broken.
        """
        from embedding_expansion.inference.describe import describe_backbone
        from embedding_expansion.model.plain_backbone import open_backbone

        batch_size = as_whole(batch_size, "batch_size", least=1, most=MOST_IN_A_BATCH)
        backbone = open_backbone(
            name,
            weights=weights,
            pretrained=pretrained,
            mean=mean,
            std=std,
            image_size=image_size,
            pooling=pooling,
        )
        network, device = torch_network(backbone.model, device)
        stored = StoredModel(network, describe_backbone(backbone, "backbone"), device, backbone, backbone.text)
        return cls._of(stored, {}, batch_size)

    @property
    def dimensions(self) -> int:
        """Number of dimensions of the embedding."""
        return self._model.dimensions

    @property
    def image_size(self) -> int:
        """Side of the model's square input images, in pixels.

        Raises:
            InvalidInput: the transform is a function of yours.
        """
        return self.preprocessing.size

    @property
    def least(self) -> int | None:
        """How many pixels of the short side of a file are decoded at least; None, with your transform, for all."""
        return self._model.least

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of decoded images.

        Raises:
            InvalidInput: the transform is a function of yours.
        """
        if not isinstance(self._model, StoredModel):
            raise InvalidInput(
                "the images are prepared by a transform of yours, which has no size to show; call square"
            )
        return self._model.manifest.preprocessing

    @property
    def assumed(self) -> str:
        """What had to be assumed about the weights of a backbone, in one sentence; empty if nothing was."""
        return self.entry("assumed") or ""

    @property
    def takes_text(self) -> bool:
        """Whether `embed_text` embeds texts: for a pair of towers of open_clip as it comes, or an export of one."""
        return self._text_tower() is not None

    def embed_text(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns the L2-normalised embeddings of texts, float32, (n, d), in the space of the images.

        Args:
            texts: one text, or several. What a tower cannot take of a long text is cut off at the end.

        Raises:
            InvalidInput: the model has no text tower.
        """
        tower = self._text_tower()
        if tower is None:
            raise InvalidInput("the model has no text tower; take a backbone such as open_clip/ViT-B-32, untrained")
        return tower.embed([texts] if isinstance(texts, str) else list(texts))

    def _text_tower(self) -> TextTower | None:
        return self._model.text if isinstance(self._model, StoredModel) else None

    def describe(self) -> dict[str, Any]:
        """Describes the model as JSON values: the content of model.json, the device and the thresholds."""
        return self._model.content | {"device": self._model.device, "thresholds": thresholds_json(self.thresholds)}

    def entry(self, *keys: str) -> str | None:
        """An entry of model.json as text, such as `entry("training", "data")`; None if it is missing."""
        return entry_of(self._model.content, *keys)

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

        With a transform of yours, it is what the transform gives: float32, (c, h, w).

        Args:
            image: as in `embed`.
            max_pixels: as in `embed`.

        Raises:
            DataError: the image cannot be decoded, or is too thin.
            InvalidInput, InvalidType: the value is not an image.
        """
        pixels = as_pixels(image, as_limit(max_pixels, "max_pixels"), least=self.least)
        try:
            check_shape(*pixels.shape[:2])
        except InvalidInput as error:  # too thin
            raise DataError(f"{error}; crop or remove it") from error
        return self._model.prepare(pixels)

    def embed_squares(self, squares: Sequence[Square], *, flip: bool = False) -> npt.NDArray[np.float32]:
        """Embeds one batch of preprocessed images.

        Args:
            squares: one or more results of `square`.
            flip: as in `embed`.

        Raises:
            RunError: an embedding is NaN or infinite.
        """
        embeddings = self._model.embed(squares)
        if flip:
            embeddings = _normalized(embeddings + self._model.embed(squares, mirrored=True))
        if not np.isfinite(embeddings).all():
            raise RunError("the model's embeddings are NaN or infinite; train it again, or pass other weights")
        return embeddings


def source_of(model: str | os.PathLike[str] | Embedder) -> Path | PlainBackbone:
    """The folder or the backbone behind a model that is to be stored.

    Raises:
        InvalidInput: it is an embedder of a module.
    """
    if not isinstance(model, Embedder):
        return Path(model)
    if not isinstance(model._model, StoredModel):
        raise InvalidInput(
            "an Embedder of a module and a transform cannot be stored, because a file of them would run code when it "
            "is opened; add its vectors to an Index yourself, open the network by name with Embedder.from_backbone, or "
            "pass a run folder or an export"
        )
    return model._model.source


def _text(folder: Path, manifest: Manifest) -> TextTower | None:
    """The text tower of an export; None without one, or, with a warning, if its tokenizer cannot be had."""
    if not (folder / TEXT).exists():
        return None
    from embedding_expansion.model.towers import TextTower

    try:
        return TextTower.load(str(manifest.entry("model", "backbone")), folder)
    except DataError as error:
        warnings.warn(f"texts cannot be embedded, because {error}", stacklevel=3)
        return None


def _exported(folder: Path, manifest: Manifest, device: str) -> tuple[Network, str]:
    if manifest.format == "onnx":
        return onnx_network(folder / FILES["onnx"], device)
    if manifest.format == "torch":
        raise InvalidInput(
            f"{folder} contains a program of torch.export, which can execute code when loaded; if you trust it, call "
            "torch.export.load yourself, or export the run with --format onnx or safetensors"
        )
    from embedding_expansion.model.trained import load_network

    return torch_network(load_network(folder), device)


def _normalized(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scales rows to length 1. Zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(lengths, 1e-12)
    return unit
