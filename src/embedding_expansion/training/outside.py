"""Measuring what no run has made: vectors from elsewhere, and backbones as they come."""

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
    """Measures the vectors of an .npz or .parquet by their labels; where the file has a split, those of `test`.

    Args:
        path: the file.
        steps: of post-processing; a whitening is fitted on the rows of `train`.

    Returns:
        The retrieval and clustering measures, and `data`, what was measured; with steps also `reranked`, the retrieval
        measures after them.

    Raises:
        DataError, InvalidInput: the file cannot be used (see `data.vectors`), or has no rows to test on.
    """
    vectors = read_vectors(path)
    chosen = np.ones(len(vectors.labels), dtype=np.bool_) if vectors.is_train is None else ~vectors.is_train
    if not chosen.any():
        raise DataError(f"{path} has no test rows; leave split away to measure all of them")
    images = vectors.side(chosen)
    rows = torch.from_numpy(vectors.rows[chosen])
    measures: dict[str, Any] = measure(rows, images, (1, 2, 4, 8), seed=0)
    if steps is not None:
        training = None if chosen.all() else torch.from_numpy(vectors.rows[~chosen])
        measures["reranked"] = measure_post_processed(rows, images, (1, 2, 4, 8), steps, training)
    return measures | {"data": f"{path.name}, {len(rows)} vectors of {rows.shape[1]} dimensions", "broken_images": []}


def evaluate_backbone(
    name: str, data: DataConfig, steps: Steps | None = None, *, pretrained: bool = False, weights: str | None = None
) -> dict[str, Any]:
    """Measures the pooled features of a backbone without a head, L2-normalised, on the test classes of a data set.

    Args:
        name: of the backbone.
        data: the data set.
        steps: of post-processing; a whitening is fitted on the training classes of the set.
        pretrained: fetch the weights of the library that has the backbone; otherwise they are random, of seed 0.
        weights: a local .safetensors file with the backbone's state dict.

    Returns:
        The retrieval and clustering measures, and `data`, the name of the set; with steps also `reranked`, the
        retrieval measures after them.

    Raises:
        UnknownName, InvalidInput, DataError: the backbone, its weights or the data set cannot be had.
    """
    model = ModelConfig(backbone=name, pretrained=pretrained, weights=weights)
    sampler = SamplerConfig(classes_per_batch=1, images_per_class=1)  # nothing is trained: any set has a class
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
