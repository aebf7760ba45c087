"""The embedding model: uint8 images -> normalisation -> backbone -> global pooling -> linear head, or no head.

The normalisation of the input is stored in buffers, so that the weights always come with the right input convention.
The output is not normalised: the losses do that themselves, and `EmbeddingModel.embed` does it for retrieval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.checks import as_whole, check_name, validates
from embedding_expansion.errors import InvalidInput, InvalidType, RunError
from embedding_expansion.model.backbone_names import OF_VECTORS
from embedding_expansion.model.backbones import Backbone, build_backbone
from embedding_expansion.runs.options import NOTHING_LEARNS, ModelConfig


class EmbeddingModel(nn.Module):
    """Maps images to points, so that images of one class lie close together.

    Args:
        backbone: "conv4" (four blocks of 64 channels, for 32 x 32 images), a torchvision name such as
            "googlenet", or "timm/NAME"; "linear" or "mlp" for vectors.
        dim: dimensions of the embedding; "width" for as many as the backbone has features; "none" for no head, so that
            the pooled features of the backbone are the embedding.
        pooling: "avg" (mean over the feature map) or "gem" (generalised mean with a learnt exponent, 3 at first).
        channels: colour channels of the backbone's input, or dimensions of the vectors. Grey images are repeated for a
            backbone of 3 channels, and colour images averaged for a backbone of 1.
        pretrained: fetch ImageNet weights through the library that has the backbone.
        weights: path of a .safetensors file with the backbone's own state dict, loaded strictly.
        mean, std: of the pixels in 0..1, one per channel; by default what the weights file or a file beside it says
            (see `model.input_convention`), else what the backbone's library has for this name.
        freeze_batch_norm: batch norm keeps its statistics and its scale.
        freeze_backbone: only the head learns.

    Attributes:
        dimensions: number of dimensions of the embedding.
        image_size: the side of the square images that the backbone is made for, in pixels.
        crop: how such a square is made of an image; None if that is not known.
        assumed: what had to be assumed about the normalisation of a weights file, in one sentence; empty if nothing
            was.

    Raises:
        UnknownName: no backbone has that name.
        InvalidInput: an option that cannot be used, or weights that are not this backbone's.
        DataError: pretrained weights that cannot be fetched.

    Example:
        >>> model = EmbeddingModel("conv4", dim=64)
        >>> model.embed(torch.zeros(5, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([5, 64])

    Source: the training protocol of Ko & Gu, CVPR 2020. Differs from the source: any backbone, not GoogLeNet only.
    """

    mean: Tensor
    std: Tensor

    @validates
    def __init__(
        self,
        backbone: str = "conv4",
        dim: int | Literal["none", "width"] = 128,
        *,
        pooling: Literal["avg", "gem"] = "avg",
        channels: int = 3,
        pretrained: bool = False,
        weights: str | None = None,
        mean: list[float] | tuple[float, ...] | None = None,
        std: list[float] | tuple[float, ...] | None = None,
        freeze_batch_norm: bool = False,
        freeze_backbone: bool = False,
    ) -> None:
        super().__init__()
        dim = dim if dim in ("none", "width") else as_whole(dim, "dim", least=1)
        channels = as_whole(channels, "channels", least=1)
        if dim == "none" and freeze_backbone:
            raise InvalidInput(NOTHING_LEARNS)
        found: Backbone = build_backbone(backbone, channels=channels, pretrained=pretrained, weights=weights)
        self.trunk = found.trunk
        self.pooling = _pooling(pooling, found.spatial)
        self.dimensions = found.width if isinstance(dim, str) else dim
        self.head = nn.Identity() if dim == "none" else _head(found.width, self.dimensions)
        self.channels = channels
        self.takes_vectors = backbone in OF_VECTORS
        self.image_size, self.crop = found.image_size, found.crop
        self.assumed = found.assumed({name for name, value in (("mean", mean), ("std", std)) if value is not None})
        self.register_buffer("mean", _per_channel("mean", found.mean if mean is None else mean, channels))
        self.register_buffer("std", _per_channel("std", found.std if std is None else std, channels))
        self.freeze_batch_norm = freeze_batch_norm
        self.freeze_backbone = freeze_backbone
        self._freeze()

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> Tensor: ...  # noqa: D102

    def forward(self, images: Tensor) -> Float[Tensor, "b d"]:
        """Embeds images, without L2 normalisation.

        Args:
            images: uint8, (b, 1 or 3, height, width); vectors float32, (b, d, 1, 1).

        Raises:
            InvalidType: the images are not uint8, or the vectors not float32.
            InvalidInput: the images have another shape.
        """
        embeddings: Tensor = self.head(self.features(images))
        return embeddings

    def features(self, images: Tensor) -> Float[Tensor, "b w"]:
        """What the head sees: the pooled output of the backbone, (b, width)."""
        if self.takes_vectors:
            return self._of_vectors(images)
        if images.dtype != torch.uint8:
            raise InvalidType(f"images are {images.dtype}; pass uint8 pixels, the model normalises them itself")
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InvalidInput(f"images have the shape {tuple(images.shape)}; pass (batch, 1 or 3, height, width)")
        pooled: Tensor = self.pooling(self.trunk(self._normalize(images)))
        return pooled

    def _of_vectors(self, vectors: Tensor) -> Float[Tensor, "b w"]:
        if vectors.dtype != torch.float32:
            raise InvalidType(f"vectors are {vectors.dtype}; pass float32, and images to a backbone for images")
        if vectors.ndim != 4 or vectors.shape[1:] != (self.channels, 1, 1):
            raise InvalidInput(f"vectors have the shape {tuple(vectors.shape)}; pass (batch, {self.channels}, 1, 1)")
        hidden: Tensor = self.trunk((vectors - self.mean) / self.std)
        return hidden

    @torch.no_grad()
    def embed(self, images: Tensor) -> Float[Tensor, "b d"]:
        """L2-normalised embeddings of uint8 images, in evaluation mode and without gradient."""
        return self._in_evaluation(self, images)

    @torch.no_grad()
    def embed_with_backbone(self, images: Tensor) -> Float[Tensor, "b w"]:
        """L2-normalised features of uint8 images, in evaluation mode and without gradient."""
        return self._in_evaluation(self.features, images)

    def _in_evaluation(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        training = self.training
        self.eval()
        vectors = functional.normalize(function(images).float(), dim=1)
        self.train(training)
        return vectors

    def train(self, mode: bool = True) -> EmbeddingModel:
        """Training mode, except for what is frozen."""
        super().train(mode)
        self._freeze()
        return self

    def _normalize(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        pixels = images.to(torch.float32, memory_format=torch.channels_last) / 255
        if self.channels == 1 and pixels.shape[1] == 3:
            pixels = pixels.mean(dim=1, keepdim=True)
        elif self.channels == 3 and pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        return (pixels - self.mean) / self.std

    def _freeze(self) -> None:
        if self.freeze_backbone:
            self.trunk.eval().requires_grad_(False)
            self.pooling.requires_grad_(False)
        if self.freeze_batch_norm:
            for module in self.trunk.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval().requires_grad_(False)


class GeneralizedMean(nn.Module):
    """Global pooling (mean of x^p)^(1/p) with p learnt: the average at p = 1, the maximum as p grows.

    Source: Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018, initial p = 3.
    Differs from the source: one p for all channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(3.0))

    def forward(self, features: Float[Tensor, "b w h v"]) -> Float[Tensor, "b w"]:
        """Pools a feature map; values under 1e-6 count as 1e-6, so that the root has a gradient."""
        raised = features.clamp(min=1e-6) ** self.exponent
        return raised.mean(dim=(2, 3)) ** (1 / self.exponent)


class AveragePooling(nn.Module):
    """The mean over the feature map."""

    def forward(self, features: Float[Tensor, "b w h v"]) -> Float[Tensor, "b w"]:
        """Pools a feature map."""
        return features.mean(dim=(2, 3))


def _head(width: int, dim: int) -> nn.Linear:
    head = nn.Linear(width, dim)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _pooling(name: str, spatial: bool) -> nn.Module:
    check_name("pooling", name, ("avg", "gem"))
    if not spatial:
        if name != "avg":
            raise InvalidInput(f"pooling is {name!r}, but this backbone pools by itself; leave pooling at 'avg'")
        return nn.Identity()
    return GeneralizedMean() if name == "gem" else AveragePooling()


def _per_channel(name: str, values: list[float] | tuple[float, ...], channels: int) -> Float[Tensor, "c 1 1"]:
    if channels == 1 and len(values) == 3:
        values = [sum(values) / 3]
    if len(values) != channels:
        raise InvalidInput(f"{name} has {len(values)} values but the images {channels} channels; pass one per channel")
    if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in values):
        raise InvalidInput(f"{name} is {list(values)}; pass numbers{'' if name == 'mean' else ' above 0'}")
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def make_model(config: ModelConfig, *, fetch_weights: bool = True) -> EmbeddingModel:
    """Builds the model. Without `fetch_weights`, its weights are random, to be replaced by those of a checkpoint."""
    return EmbeddingModel(
        "conv4" if config.backbone is None else config.backbone,
        config.dim,
        pooling=config.pooling,
        channels=3 if config.channels is None else config.channels,
        pretrained=config.pretrained and fetch_weights,
        weights=config.weights if fetch_weights else None,
        mean=config.mean,
        std=config.std,
        freeze_batch_norm=config.freeze_batch_norm,
        freeze_backbone=config.freeze_backbone,
    )


class NotFinite(RunError):
    """The weights, or values computed from them, are NaN or infinite."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all entries of all floating tensors are finite."""
    found = [tensor.detach().isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    # Synchronises with the device only once. Adam's step counters are on the CPU.
    return not found or bool(torch.stack([finite.to(found[0].device) for finite in found]).all())


def check_embeddings(embeddings: Tensor) -> Tensor:
    """Returns the embeddings unchanged.

    Raises:
        NotFinite: an embedding is NaN or infinite.
    """
    if not all_finite([embeddings]):
        raise NotFinite("the model's embeddings are NaN or infinite")
    return embeddings
