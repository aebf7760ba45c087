"""Evaluates what is no run: files of vectors, and models that this package has not trained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.transforms import transform_of
from embedding_expansion.data.vectors import read_vectors
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.model.trained import find_device
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.runs.options import DataConfig
from embedding_expansion.training.evaluation import embed_images, measure, measure_post_processed, model_embedder
from embedding_expansion.training.split import located, open_data


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


def evaluate_model(
    model: EmbeddingModel,
    preprocessing: Preprocessing,
    data: DataConfig,
    steps: Steps | None = None,
    *,
    device: str = "auto",
    flip: bool = False,
) -> dict[str, Any]:
    """Evaluates a model that no run has trained, such as a backbone as it comes, on the test classes of a data set.

    Args:
        model: the model, without a head if its features are to be measured.
        preprocessing: the preprocessing of images. For data sets whose images are not cropped in training, such as
            drawn characters, whole images are resized to its size instead.
        data: the data set.
        steps: post-processing steps; a whitening is fitted on the training classes.
        device: the device: "auto", "cpu", "cuda", ...
        flip: whether to average the embeddings of each image and its mirror image.

    Returns:
        The retrieval and clustering metrics, and `data`, the name of the data set; with steps also `reranked`, the
        retrieval metrics after post-processing.

    Raises:
        InvalidInput, UnknownName, DataError: the device does not exist, or the data set cannot be opened or holds
            vectors.
    """
    place = find_device(device)
    dataset = open_data(located(data))
    if dataset.test.holds_vectors:
        raise InvalidInput(f"{data.name} holds vectors, but the model embeds images; pass the file instead of a model")
    transform = transform_of(Preprocessing(preprocessing.size) if dataset.transform == "none" else preprocessing)
    workers, broken = 0 if dataset.test.pixels is not None else min(4, os.cpu_count() or 1), dict[Path, str]()
    embed = model_embedder(model.to(place).eval(), place, "float32", flip=flip)

    def embedded(images: ImageSet) -> tuple[Tensor, ImageSet]:
        return embed_images(embed, images, transform, workers=workers, broken=broken)

    vectors, images = embedded(dataset.test)
    measures: dict[str, Any] = measure(vectors, images, dataset.recall_at, seed=0)
    if steps is not None:
        training = None if steps.whiten is None else embedded(dataset.train)[0]
        measures["reranked"] = measure_post_processed(vectors, images, dataset.recall_at, steps, training)
    return measures | {"data": dataset.name, "broken_images": sorted(map(str, broken))}
