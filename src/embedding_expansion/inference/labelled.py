"""Labelled embeddings for calibration: of a run's held-out classes, of another data set, or of an index."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.datasets import DATASETS, open_dataset
from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.prepared import origin
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.inference.calibration import Labelled
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.retrieval.index import Index
from embedding_expansion.runs.options import DataConfig, SamplerConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.trained import reopen


def labelled_of_run(
    path: str | os.PathLike[str], data: DataConfig | None = None, *, flip: bool = False, device: str = "auto"
) -> Labelled:
    """Embeds images of classes that are neither training nor test classes of a run.

    Args:
        path: the run folder.
        data: another data set; its training split is used, so that its test split stays unseen. None takes the
            training classes that the run held out for validation.
        flip: whether to average the embeddings of each image and its mirror image.
        device: the device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInput: the run held out no classes, or was trained on `data`.
        RunError, DataError: the run or the data cannot be opened, or the run's data has changed.
    """
    run = RunFolder(Path(path))
    config = run.read_config()
    held_out = config.protocol == "validation"
    if data is None and not held_out:
        raise InvalidInput(
            f"{path} was trained with --protocol {config.protocol}, which holds out no classes; pass --data with "
            "images of classes that it was not trained on, or train with --protocol validation"
        )
    if data is not None:
        _check_other(str(path), data.name, config.data.name, held_out)
        data = dataclasses.replace(data, image_size=config.data.image_size, transform=config.data.transform)
        # Calibration needs neither held-out classes nor full batches.
        one = SamplerConfig(classes_per_batch=1, images_per_class=2)
        config = dataclasses.replace(config, data=data, protocol="last", sampler=one)
    # Uses the same precision as Embedder.
    job = reopen(Path(path), dataclasses.replace(config, device=device, precision="float32", flip=flip))
    chosen = job.dataset.train if job.validation is None else job.validation
    recorded = (run.read_metrics() or {}).get("held_out_classes") if data is None else None
    if recorded not in (None, job.held_out_classes):
        raise DataError(
            f"{config.data.name} has changed since {path} was trained, so that training classes would count as held "
            "out; pass --data with images of classes that it was not trained on"
        )
    vectors, images = job.embed(chosen)
    what = f"the training split of {job.dataset.name}" if data else f"{job.dataset.name}, held out in training"
    broken = {str(file): why for file, why in job.broken.items()}
    return Labelled(vectors.cpu().numpy(), images.labels, what, broken, job.changes)


def labelled_of_embedder(
    embedder: Embedder, name: str | os.PathLike[str], data: DataConfig | None, *, flip: bool = False
) -> Labelled:
    """Embeds the training split of a data set with an exported model or a backbone as it comes.

    Args:
        embedder: the model.
        name: its name, for errors.
        data: the data set.
        flip: whether to average the embeddings of each image and its mirror image.

    Raises:
        InvalidInput: no data set is given, the model was trained on it, or it holds vectors.
        DataError: the data cannot be opened.
    """
    if data is None:
        raise InvalidInput(f"{name} contains no images; pass --data with labelled images")
    root = None if data.root is None else Path(data.root)
    dataset = open_dataset(data.name, root=root, part=data.part, train_classes=data.train_classes)
    trained_on = embedder.entry("training", "data")
    if dataset.name == trained_on:
        raise InvalidInput(
            f"{name} was trained on {trained_on}, so the thresholds would be too optimistic; pass --data with other "
            "classes"
        )
    if dataset.train.holds_vectors:
        raise InvalidInput(f"{data.name} holds vectors, but {name} embeds images; pass images")
    failed = dict[int, str]()
    vectors = embedder.embed(_pictures(dataset.train), flip=flip, broken=failed)
    if not len(vectors):
        raise DataError(f"none of {len(failed)} images can be read; the first error: {next(iter(failed.values()))}")
    kept = [position for position in range(len(dataset.train)) if position not in failed]
    broken = {str(dataset.train.path(position)): reason for position, reason in failed.items()}
    return Labelled(vectors, dataset.train.labels[kept], f"the training split of {dataset.name}", broken)


def labelled_of_index(index: Index) -> Labelled:
    """Returns the vectors of all labelled items of an index.

    Raises:
        InvalidInput: no item has a label.
    """
    parts, labels = [np.empty((0, index.dimensions), np.float32)], list[str]()
    for items, vectors in index.batches():
        labelled = [item.label is not None for item in items]
        parts.append(vectors[labelled])
        labels += [item.label for item in items if item.label is not None]
    if not labels:
        raise InvalidInput(f"{index.location} holds no labelled items; add labels with embex add --labels TABLE.csv")
    return Labelled(np.concatenate(parts), np.unique(labels, return_inverse=True)[1], "the index itself")


def _pictures(images: ImageSet) -> Iterator[Any]:
    """The images in a form that `Embedder` accepts."""
    for index in range(len(images)):
        yield images.path(index) if images.pixels is None else _picture(images.pixels[index])


def _picture(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _check_other(path: str, given: str, own: str, held_out: bool) -> None:
    """Checks that a data set is not the one that a run was trained on."""
    given_origin, own = origin(given), origin(own)
    same = given_origin == own if given_origin in DATASETS else Path(given_origin).expanduser().resolve() == Path(own)
    if same:
        remedy = "omit --data to use the classes that it held out" if held_out else "pass images of other classes"
        raise InvalidInput(f"{path} was trained and tested on {given}; {remedy}")
