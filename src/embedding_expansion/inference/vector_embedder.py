"""Embeds vectors of any modality with a run that was trained on vectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.thresholds import Thresholds, read_thresholds, thresholds_json
from embedding_expansion.model.network import check_embeddings
from embedding_expansion.model.trained import find_device, load_trained

_BATCH = 4096


class VectorEmbedder:
    """A trained model that embeds vectors. Open one with `VectorEmbedder.load`.

    Attributes:
        thresholds: the thresholds calibrated for the run; empty if there are none.
    """

    def __init__(self, run: str | os.PathLike[str], device: str, thresholds: Thresholds) -> None:
        model = load_trained(Path(run)).model
        if not model.takes_vectors:
            raise InvalidInput(f"{run} embeds images; pass image files or folders")
        self._place = find_device(device)
        self._model = model.to(self._place)
        self.thresholds = thresholds

    @classmethod
    def load(cls, run: str | os.PathLike[str], *, device: str = "auto") -> VectorEmbedder:
        """Opens a run folder.

        Args:
            run: the run folder.
            device: the device: "auto", "cpu", "cuda", ...

        Raises:
            RunError: the folder is not a run.
            InvalidInput: the run embeds images, or the device does not exist.
        """
        return cls(run, device, read_thresholds(Path(run)))

    @property
    def dimensions(self) -> int:
        """Number of dimensions of the embedding."""
        return self._model.dimensions

    def describe(self) -> dict[str, Any]:
        """Describes the model as JSON values: its dimensions, device and thresholds."""
        return {
            "input": {"dimensions": self._model.channels},
            "embedding": {"dimensions": self.dimensions},
            "device": str(self._place),
            "thresholds": thresholds_json(self.thresholds),
        }

    def embed(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the L2-normalised embeddings of vectors, float32, (n, d).

        Args:
            rows: (n, w), on the same scale as in training. The model standardises them itself.

        Raises:
            InvalidInput: the model takes vectors of another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self._model.channels:
            raise InvalidInput(
                f"the model takes vectors of {self._model.channels} dimensions, but rows has the shape {rows.shape}"
            )
        parts = [np.empty((0, self.dimensions), np.float32)]
        for start in range(0, len(rows), _BATCH):
            batch = torch.from_numpy(rows[start : start + _BATCH])[:, :, None, None].to(self._place)
            parts.append(check_embeddings(self._model.embed(batch)).cpu().numpy())
        return np.concatenate(parts)
