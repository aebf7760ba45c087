"""Reopens a finished run with its data, and evaluates its model."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

from embedding_expansion.errors import InvalidInput
from embedding_expansion.model import trained as _trained
from embedding_expansion.model.trained import load_weights
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.runs.options import DataConfig, SamplerConfig, TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.evaluation import measure, measure_post_processed
from embedding_expansion.training.fingerprint import Fingerprint, changed_data, fingerprint
from embedding_expansion.training.job import Job, Tested, prepare
from embedding_expansion.training.split import Split, keep, located, open_data


def reopen(path: Path, config: TrainConfig | None = None) -> Job:
    """Reopens the job of a run with its final weights.

    Args:
        path: the run folder.
        config: a configuration that replaces the run's, for example with other data; None keeps that of the run.

    Raises:
        RunError: the folder is not a run, or has no final weights yet.
        DataError, InvalidInput: the configuration names something that does not exist.
    """
    run = RunFolder(path)
    own = run.read_config()
    config = own if config is None else config
    split, changes = _kept_split(run, config) if _is_same(config.data, own.data) else (None, [])
    # The saved weights already are the average, if the run had one.
    job = prepare(dataclasses.replace(config, ema=None), split, fetch_weights=False)
    job.changes = changes
    load_weights(run, job.model)
    return job


def _is_same(data: DataConfig, own: DataConfig) -> bool:
    """Whether this is the data set of a run, even if it was moved."""
    return (located(data).name, data.train_classes) == (located(own).name, own.train_classes)


def _kept_split(run: RunFolder, config: TrainConfig) -> tuple[Split | None, list[str]]:
    """The data of a run in its original split, and the changes since; None if the run has no fingerprint."""
    before = Fingerprint.read(run.fingerprint)
    if before is None:
        return None, []
    dataset = open_data(located(config.data))
    changes = changed_data(before, fingerprint(config, dataset, before.sides))
    return keep(dataset, before.sides, config), changes


def evaluate(
    path: Path, data: DataConfig | None = None, steps: Steps | None = None, *, flip: bool | None = None
) -> dict[str, Any]:
    """Evaluates a run on the test classes of its data set or of another one.

    Args:
        path: the run folder.
        data: another data set; image size and transform are those of the run.
        steps: post-processing steps; a whitening is fitted on the training classes of the evaluated data set.
        flip: whether to average the embeddings of each image and its mirror image; None means as in the run.

    Returns:
        The retrieval and clustering metrics; `data`, the name of the data set; with steps also `reranked`, the
        retrieval metrics after post-processing; and `data_changes`, changes to the run's own data since it was trained,
        if any. On its own data, the run is evaluated on its original test classes.

    Raises:
        RunError: the folder is not a run, or has no final weights yet.
        DataError, InvalidInput: the data set cannot be opened, or a step cannot be applied.
    """
    config = RunFolder(path).read_config()
    if isinstance(config.model.dim, int):
        _check_whitening(path, steps, config.model.dim)
    tested = embed_test(path, data, flip=flip)
    job, vectors, images = tested.job, tested.vectors, tested.images
    _check_whitening(path, steps, job.model.dimensions)
    measures: dict[str, Any] = measure(vectors, images, job.dataset.recall_at, seed=config.seed)
    if steps is not None:
        training = None if steps.whiten is None else job.embed(job.dataset.train)[0]
        measures["reranked"] = measure_post_processed(vectors, images, job.dataset.recall_at, steps, training)
    measures |= {"data": job.dataset.name, "broken_images": sorted(str(path) for path in job.broken)}
    return measures | ({"data_changes": job.changes} if job.changes else {})


def embed_test(path: Path, data: DataConfig | None = None, *, flip: bool | None = None) -> Tested:
    """Embeds the test images of a run's data set, or of another one; arguments and errors are those of `evaluate`."""
    config = RunFolder(path).read_config()
    if data is not None:
        data = dataclasses.replace(data, image_size=config.data.image_size, transform=config.data.transform)
        config = dataclasses.replace(config, data=data)
    # Evaluation needs neither held-out classes nor full batches.
    one = SamplerConfig(classes_per_batch=1, images_per_class=2)
    flip = config.flip if flip is None else flip
    return reopen(path, dataclasses.replace(config, protocol="last", sampler=one, flip=flip)).tested()


def _check_whitening(path: Path, steps: Steps | None, dimensions: int) -> None:
    if steps is not None and isinstance(steps.whiten, int) and steps.whiten > dimensions:
        raise InvalidInput(
            f"rerank.whiten is {steps.whiten}, but the embeddings of {path} have {dimensions} dimensions; pass at most "
            f"{dimensions}, or all"
        )


def __getattr__(name: str) -> Any:
    """`load_trained` and `Trained` by their former place, kept for one release."""
    if name not in ("load_trained", "Trained"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.{name} has moved; import {name} from {_trained.__name__}", DeprecationWarning, stacklevel=2
    )
    return getattr(_trained, name)
