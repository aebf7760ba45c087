"""Labelled embeddings to calibrate on: of a run's held-out classes, of another data set, or of an index itself."""

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
    """The embeddings that a run gives to classes which it was not trained on, and which are not those it is tested on.

    Args:
        path: the run folder.
        data: another data set, of which the training side is taken, so that its test side stays unseen; by default the
            classes of the run's own training side that it held out to select its weights on.
        flip: average in the embedding of each image's mirror image.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInput: the run held no classes out, or was trained on the data.
        RunError, DataError: the run or the data cannot be had, or its data has changed.
    """
    run = RunFolder(Path(path))
    config = run.read_config()
    held_out = config.protocol == "validation"
    if data is None and not held_out:
        raise InvalidInput(
            f"{path} was trained with --protocol {config.protocol} and held no classes out; pass --data with images of "
            "classes that it was not trained on"
        )
    if data is not None:
        _check_other(str(path), data.name, config.data.name, held_out)
        data = dataclasses.replace(data, image_size=config.data.image_size, transform=config.data.transform)
        # No classes need be held out or fill a batch.
        one = SamplerConfig(classes_per_batch=1, images_per_class=2)
        config = dataclasses.replace(config, data=data, protocol="last", sampler=one)
    # In the precision in which Embedder embeds.
    job = reopen(Path(path), dataclasses.replace(config, device=device, precision="float32", flip=flip))
    chosen = job.dataset.train if job.validation is None else job.validation
    then = (run.read_metrics() or {}).get("held_out_classes") if data is None else None
    if then not in (None, job.held_out_classes):
        raise DataError(
            f"{config.data.name} has changed since {path} was trained, so that classes which it was trained on would "
            "be taken for held out; pass --data with images of classes that it was not trained on"
        )
    vectors, images = job.embed(chosen)
    what = (
        f"the training side of {job.dataset.name}" if data is not None else f"{job.dataset.name}, held out in training"
    )
    broken = {str(file): why for file, why in job.broken.items()}
    return Labelled(vectors.cpu().numpy(), images.labels, what, broken, job.changes)


def labelled_of_export(
    path: str | os.PathLike[str], data: DataConfig | None, *, flip: bool = False, device: str = "auto"
) -> Labelled:
    """The embeddings that an exported model gives to the training side of a data set.

    Args:
        path: of the export.
        data: the data set.
        flip: average in the embedding of each image's mirror image.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInput: there is no data set, the model was trained on it, or it holds vectors.
        RunError, DataError: the export or the data cannot be had.
    """
    if data is None:
        raise InvalidInput(f"{path} is an export and holds no images; pass --data with images of classes of their own")
    embedder = Embedder.load(path, device=device)
    root = None if data.root is None else Path(data.root)
    dataset = open_dataset(data.name, root=root, part=data.part, train_classes=data.train_classes)
    trained_on = embedder.told("training", "data")
    if dataset.name == trained_on:
        raise InvalidInput(
            f"{path} was trained on {trained_on}, which would flatter it; pass --data with other classes"
        )
    if dataset.train.holds_vectors:
        raise InvalidInput(f"{data.name} holds vectors, but {path} embeds images; pass images")
    failed = dict[int, str]()
    vectors = embedder.embed(_pictures(dataset.train), flip=flip, broken=failed)
    if not len(vectors):
        raise DataError(f"not one of {len(failed)} images can be read, the first: {next(iter(failed.values()))}")
    kept = [position for position in range(len(dataset.train)) if position not in failed]
    broken = {str(dataset.train.path(position)): reason for position, reason in failed.items()}
    return Labelled(vectors, dataset.train.labels[kept], f"the training side of {dataset.name}", broken)


def labelled_of_index(index: Index) -> Labelled:
    """The vectors of an index whose items have a label.

    Raises:
        InvalidInput: none has one.
    """
    parts, labels = [np.empty((0, index.dimensions), np.float32)], list[str]()
    for items, vectors in index.batches():
        labelled = [item.label is not None for item in items]
        parts.append(vectors[labelled])
        labels += [item.label for item in items if item.label is not None]
    if not labels:
        raise InvalidInput(f"{index.location} holds no item with a label; add some: embex add --labels TABLE.csv")
    return Labelled(np.concatenate(parts), np.unique(labels, return_inverse=True)[1], "the index itself")


def _pictures(images: ImageSet) -> Iterator[Any]:
    """Each image as `Embedder` takes it."""
    for index in range(len(images)):
        yield images.path(index) if images.pixels is None else _picture(images.pixels[index])


def _picture(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _check_other(path: str, given: str, own: str, held_out: bool) -> None:
    """Refuses the data that a run was trained on."""
    same = given == own if given in DATASETS else Path(given).expanduser().resolve() == Path(own)
    if same:
        remedy = "leave --data out, for the classes that it held out" if held_out else "pass images of other classes"
        raise InvalidInput(f"{path} was trained on {given}, and is tested on the rest of it; {remedy}")
