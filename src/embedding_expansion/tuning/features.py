"""The features of a frozen backbone, computed once for all trials and processes of a study and kept in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.loader import evaluation_batches
from embedding_expansion.errors import DataError
from embedding_expansion.model.weights import load_tensors, save_tensors
from embedding_expansion.training.job import Features, Job, prepare
from embedding_expansion.training.split import Split
from embedding_expansion.tuning.plan import Plan


def cached_features(plan: Plan, path: Path) -> list[Features]:
    """The features of the training images for each fold, read from a file or computed and written to it.

    Raises:
        DataError: no image can be read.
        RunError: the file is broken, or cannot be written.
    """
    if not path.exists():
        _compute(plan, path)
    tensors, _ = load_tensors(path, "remove it, and the features are computed again")
    return [_of_fold(split, tensors, plan.config.flip) for split in plan.splits]


def _compute(plan: Plan, path: Path) -> None:
    images = plan.splits[0].dataset.train
    print(f"caching the features of {len(images):,} training images", flush=True)
    job = prepare(plan.config, plan.splits[0])
    job.model.eval()
    tensors = _of_images(job, images, mirrored=False)
    if plan.config.flip:
        tensors["mirrored"] = _of_images(job, images, mirrored=True)["features"]
    save_tensors(path, tensors, {"data": plan.data})


@torch.no_grad()
def _of_images(job: Job, images: ImageSet, *, mirrored: bool) -> dict[str, Tensor]:
    rows, features = [], []
    for indices, pixels in evaluation_batches(images, job.test_transform, workers=job.workers, broken=job.broken):
        pixels = pixels.flip(-1) if mirrored else pixels
        features.append(job.model.features(pixels.to(job.device)).float().cpu())
        rows.append(torch.from_numpy(indices))
    if not rows:
        raise DataError(f"none of {len(images)} images can be read")
    return {"rows": torch.cat(rows), "features": torch.cat(features)}


def _of_fold(split: Split, tensors: dict[str, Tensor], flip: bool) -> Features:
    """The features of a fold's training and held-out images, by the identity of the sets."""
    found: Features = {}
    whole = split.dataset.train
    known, rows = np.full(len(whole), -1), tensors["rows"].numpy()
    known[rows] = np.arange(len(rows))
    for images in (split.train, split.validation):
        if images is None:
            continue
        at = known[np.flatnonzero(np.isin(whole.labels, images.classes))]
        kept = images if (at >= 0).all() else images.subset(np.flatnonzero(at >= 0))
        chosen = torch.from_numpy(at[at >= 0])
        for name, mirrored in (("features", False), ("mirrored", True)):
            if not mirrored or flip:
                found[id(images), mirrored] = (tensors[name][chosen], kept)
    return found


def on_device(features: Features, device: torch.device) -> Features:
    """The features on the device of the head."""
    return {key: (values.to(device), images) for key, (values, images) in features.items()}
