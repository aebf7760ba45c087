"""Embedding vectors of any modality with a run that was trained on such."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from embedding_expansion.errors import InvalidInput
from embedding_expansion.training.finite import check_embeddings
from embedding_expansion.training.job import find_device
from embedding_expansion.training.trained import load_trained

_BATCH = 4096


def embed_vectors(
    run: str | os.PathLike[str], rows: npt.NDArray[np.float32], *, device: str = "auto"
) -> npt.NDArray[np.float32]:
    """The L2-normalised embeddings of vectors, float32, (n, d).

    Args:
        run: folder of a run that was trained on vectors.
        rows: (n, w), as they were in training; the run standardises them itself.
        device: "auto", "cpu", "cuda", ...

    Raises:
        RunError: the folder is no run.
        InvalidInput: the run embeds images, or vectors of another width.
    """
    model = load_trained(Path(run)).model
    if not model.takes_vectors:
        raise InvalidInput(f"{run} embeds images; pass image files or folders")
    if rows.ndim != 2 or rows.shape[1] != model.channels:
        raise InvalidInput(
            f"{run} embeds vectors of {model.channels} dimensions, but these have the shape {rows.shape}"
        )
    place = find_device(device)
    model = model.to(place)
    parts = [np.empty((0, model.head.out_features), np.float32)]
    for start in range(0, len(rows), _BATCH):
        batch = torch.from_numpy(rows[start : start + _BATCH])[:, :, None, None].to(place)
        parts.append(check_embeddings(model.embed(batch)).cpu().numpy())
    return np.concatenate(parts)
