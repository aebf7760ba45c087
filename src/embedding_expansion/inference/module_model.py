"""A module of the user with its own transform, as a model that embeds images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.checks import validates
from embedding_expansion.data.resizing import Pixels
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, InvalidType
from embedding_expansion.model.trained import find_device


class ModuleModel:
    """A module and a transform.

    Args:
        module: images (b, c, h, w) -> embeddings (b, d). It is moved to the device and put into evaluation mode.
        transform: a Pillow image in RGB -> a floating tensor (c, h, w).
        device: the name of the device.

    Attributes:
        dimensions: the number of dimensions of the embedding, found by embedding a grey image.
        device: the device.
        content: a description as JSON values.
    """

    @validates
    def __init__(self, module: nn.Module, transform: Callable[[Image.Image], Tensor], device: str) -> None:
        if not isinstance(module, nn.Module):
            raise InvalidType(
                f"module is a {type(module).__name__}; pass a torch.nn.Module and its transform, open a run or an "
                "export with Embedder.load, or a backbone by its name with Embedder.from_backbone"
            )
        if not callable(transform):
            raise InvalidType(
                f"transform is a {type(transform).__name__}; pass a function from a Pillow image to a tensor (c, h, w)"
            )
        place = find_device(device)
        self._module, self._transform, self._place, self.device = module.to(place).eval(), transform, place, str(place)
        kinds = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
        self._dtype = next(kinds, torch.float32)
        grey = self.prepare(np.full((256, 256, 3), 128, np.uint8))
        self.dimensions = self._tried(grey).shape[1]
        self.content: dict[str, Any] = {
            "format": "module",
            "input": {"shape": ["batch", *grey.shape]},
            "embedding": {"dimensions": self.dimensions, "l2_normalised": True},
            "model": {"module": type(module).__name__},
        }

    def _tried(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            return self.embed([image])
        except EmbeddingExpansionError:
            raise
        except Exception as error:  # of a module of the user's
            reason = " ".join(str(error).split())[:200]
            raise InvalidInput(
                f"the module fails on an image of shape {image.shape} ({reason}); pass a module and a transform "
                "that fit each other"
            ) from error

    @property
    def least(self) -> None:
        """None: the transform may need all pixels."""
        return None

    def prepare(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Transforms RGB pixels (h, w, 3); returns (c, h, w)."""
        try:
            found = self._transform(Image.fromarray(pixels))
        except Exception as error:  # of a function of the user's
            reason = " ".join(str(error).split())[:200]
            raise InvalidInput(
                f"the transform fails on a Pillow image ({reason}); pass one from Pillow images to tensors (c, h, w)"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 3 or not found.is_floating_point():
            kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InvalidType(f"the transform gives {kind}; let it end in a floating tensor (c, h, w)")
        values: npt.NDArray[np.float32] = found.detach().float().cpu().numpy()
        return values

    @torch.no_grad()
    def embed(self, images: Sequence[npt.NDArray[Any]], *, mirrored: bool = False) -> npt.NDArray[np.float32]:
        """The L2-normalised embeddings of prepared images or of their mirror images."""
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise InvalidInput(
                f"the transform gives images of different shapes ({', '.join(map(str, sorted(shapes)[:3]))}); let it "
                "cut them to one size"
            )
        batch = torch.from_numpy(np.stack(images)).to(self._place, self._dtype)
        found = self._module(batch.flip(-1) if mirrored else batch)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            kind = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InvalidInput(
                f"the module gives {kind} for {len(images)} images; pass one that gives a tensor ({len(images)}, d), "
                "such as a network with its classifier replaced by torch.nn.Identity()"
            )
        unit: npt.NDArray[np.float32] = functional.normalize(found.float(), dim=1).cpu().numpy()
        return unit
