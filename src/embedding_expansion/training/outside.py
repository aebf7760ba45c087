"""Evaluates models other than runs: files of vectors, and backbones without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.data.vectors import read_vectors
from embedding_expansion.errors import DataError
from embedding_expansion.model.network import check_embeddings
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.runs.options import DataConfig, ModelConfig, SamplerConfig, TrainConfig
from embedding_expansion.training.evaluation import measure, measure_post_processed
from embedding_expansion.training.job import prepare


def evaluate_vectors(path: Path, steps: Steps | None = None) -> dict[str, Any]:
    """Evaluates the vectors of an .npz or .parquet file by their labels. If the file has a split, only `test` counts.

    Args:
        path: the file.
        steps: post-processing steps; a whitening is fitted on the rows of `train`.

    Returns:
        The retrieval and clustering metrics, and `data`, a description of the data; with steps also `reranked`, the
        retrieval metrics after post-processing.

    Raises:
        DataError, InvalidInput: the file cannot be used (see `data.vectors`), or has no test rows.
    """
    vectors = read_vectors(path)
    chosen = np.ones(len(vectors.labels), dtype=np.bool_) if vectors.is_train is None else ~vectors.is_train
    if not chosen.any():
        raise DataError(f"{path} has no test rows; remove split from the file to evaluate all rows")
    images = vectors.as_images(chosen)
    rows = torch.from_numpy(vectors.rows[chosen])
    measures: dict[str, Any] = measure(rows, images, (1, 2, 4, 8), seed=0)
    if steps is not None:
        training = None if chosen.all() else torch.from_numpy(vectors.rows[~chosen])
        measures["reranked"] = measure_post_processed(rows, images, (1, 2, 4, 8), steps, training)
    return measures | {"data": f"{path.name}, {len(rows)} vectors of {rows.shape[1]} dimensions", "broken_images": []}


def evaluate_backbone(
    name: str, data: DataConfig, steps: Steps | None = None, *, pretrained: bool = False, weights: str | None = None
) -> dict[str, Any]:
    """Evaluates the pooled, L2-normalised features of a backbone without a head on the test classes of a data set.

    Args:
        name: the name of the backbone.
        data: the data set.
        steps: post-processing steps; a whitening is fitted on the training classes.
        pretrained: whether to download pretrained weights; otherwise the weights are random with seed 0.
        weights: a local .safetensors file with the backbone's state dict.

    Returns:
        The retrieval and clustering metrics, and `data`, the name of the data set; with steps also `reranked`, the
        retrieval metrics after post-processing.

    Raises:
        UnknownName, InvalidInput, DataError: the backbone, its weights or the data set cannot be opened.
    """
    model = ModelConfig(backbone=name, pretrained=pretrained, weights=weights)
    sampler = SamplerConfig(classes_per_batch=1, images_per_class=1)  # nothing is trained, so one class is enough
    job = prepare(TrainConfig(data=data, model=model, sampler=sampler, protocol="last"))
    job.model.eval()

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return check_embeddings(functional.normalize(job.model.features(images.to(job.device)).float(), dim=1))

    vectors, images = job.run_over(job.dataset.test, features)
    measures: dict[str, Any] = measure(vectors, images, job.dataset.recall_at, seed=0)
    if steps is not None:
        training = None if steps.whiten is None else job.run_over(job.dataset.train, features)[0]
        measures["reranked"] = measure_post_processed(vectors, images, job.dataset.recall_at, steps, training)
    return measures | {"data": job.dataset.name, "broken_images": sorted(map(str, job.broken))}
