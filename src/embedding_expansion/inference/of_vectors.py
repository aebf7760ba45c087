"""A run that was trained on vectors of any modality as one object: vectors in, points out."""

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
    """What `Embedder` is of images: `VectorEmbedder.load` opens a run that was trained on vectors.

    Attributes:
        thresholds: as calibrated beside the run; empty where there are none.
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
            run: the folder.
            device: "auto", "cpu", "cuda", ...

        Raises:
            RunError: it is no run.
            InvalidInput: it embeds images, or there is no such device.
        """
        return cls(run, device, read_thresholds(Path(run)))

    @property
    def dimensions(self) -> int:
        """Of the embedding."""
        return int(self._model.head.out_features)

    def describe(self) -> dict[str, Any]:
        """What is known of the model, as JSON values: its dimensions, the device and the thresholds."""
        return {
            "input": {"dimensions": self._model.channels},
            "embedding": {"dimensions": self.dimensions},
            "device": str(self._place),
            "thresholds": thresholds_json(self.thresholds),
        }

    def embed(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The L2-normalised embeddings of vectors, float32, (n, d).

        Args:
            rows: (n, w), as they were in training; the run standardises them itself.

        Raises:
            InvalidInput: the run embeds vectors of another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self._model.channels:
            raise InvalidInput(
                f"the model embeds vectors of {self._model.channels} dimensions, but these have the shape {rows.shape}"
            )
        parts = [np.empty((0, self.dimensions), np.float32)]
        for start in range(0, len(rows), _BATCH):
            batch = torch.from_numpy(rows[start : start + _BATCH])[:, :, None, None].to(self._place)
            parts.append(check_embeddings(self._model.embed(batch)).cpu().numpy())
        return np.concatenate(parts)
