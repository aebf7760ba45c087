"""A model of this package that embeds images: of a run, of an export, or a backbone as it comes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.resizing import Pixels
from embedding_expansion.errors import RunError
from embedding_expansion.inference.manifest import Manifest
from embedding_expansion.inference.networks import Network

if TYPE_CHECKING:
    from embedding_expansion.model.plain_backbone import PlainBackbone
    from embedding_expansion.model.towers import TextTower


@dataclass(frozen=True)
class StoredModel:
    """A model that can be written to a folder.

    Attributes:
        network: preprocessed images -> embeddings.
        manifest: its description.
        device: the name of its device.
        source: the folder of the run or export, or the backbone.
        text: the text tower of a pair of towers; None if there is none.
    """

    network: Network
    manifest: Manifest
    device: str
    source: Path | PlainBackbone
    text: TextTower | None = None

    @property
    def dimensions(self) -> int:
        """The number of dimensions of the embedding."""
        return self.manifest.dimensions

    @property
    def content(self) -> dict[str, Any]:
        """The description as JSON values."""
        return self.manifest.content

    @property
    def least(self) -> int:
        """How many pixels of the short side of an image are decoded at least."""
        return self.manifest.preprocessing.least

    def prepare(self, pixels: Pixels) -> npt.NDArray[np.uint8]:
        """Resizes and crops RGB pixels (h, w, 3); returns (size, size, 3)."""
        return self.manifest.preprocessing.square(pixels)

    def embed(self, images: Sequence[npt.NDArray[Any]], *, mirrored: bool = False) -> npt.NDArray[np.float32]:
        """The L2-normalised embeddings of prepared images or of their mirror images."""
        batch = np.stack(images).transpose(0, 3, 1, 2)
        embeddings = self.network(np.ascontiguousarray(batch[:, :, :, ::-1] if mirrored else batch))
        if embeddings.shape != (len(images), self.dimensions):
            raise RunError(
                f"the model returns {embeddings.shape} for {len(images)} images, but model.json declares "
                f"{self.dimensions} dimensions; export the run again"
            )
        return embeddings
