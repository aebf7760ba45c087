"""Opening a finished run again, with its data, to measure the model that it kept."""

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
from embedding_expansion.training.job import Job, prepare
from embedding_expansion.training.split import Split, keep, located, open_data


def reopen(path: Path, config: TrainConfig | None = None) -> Job:
    """The job of a run with its final weights.

    Args:
        path: the run folder.
        config: another configuration than the run's, such as one of other data.

    Raises:
        RunError: the folder is no run, or has no final weights yet.
        DataError, InvalidInput: what the configuration names cannot be had.
    """
    run = RunFolder(path)
    own = run.read_config()
    config = own if config is None else config
    split, changes = _kept_split(run, config) if _is_same(config.data, own.data) else (None, [])
    # What the run has kept is the average of the weights already, where it had one.
    job = prepare(dataclasses.replace(config, ema=None), split, fetch_weights=False)
    job.changes = changes
    load_weights(run, job.model)
    return job


def _is_same(data: DataConfig, own: DataConfig) -> bool:
    """Whether this is the data set of a run, wherever it lies now."""
    return (located(data).name, data.train_classes) == (located(own).name, own.train_classes)


def _kept_split(run: RunFolder, config: TrainConfig) -> tuple[Split | None, list[str]]:
    """The data of a run on the split that it was trained on, and what has changed; None where no split was noted."""
    before = Fingerprint.read(run.fingerprint)
    if before is None:
        return None, []
    dataset = open_data(located(config.data))
    changes = changed_data(before, fingerprint(config, dataset, before.sides))
    return keep(dataset, before.sides, config), changes


def evaluate(
    path: Path, data: DataConfig | None = None, steps: Steps | None = None, *, flip: bool | None = None
) -> dict[str, Any]:
    """Measures a run again, on the test classes of its data set or of another one.

    Args:
        path: the run folder.
        data: another data set; its image size and transform are the run's.
        steps: of post-processing; a whitening is fitted on the training classes of the set that is measured.
        flip: whether the embedding of each image's mirror image is averaged in; by default as in the run.

    Returns:
        The retrieval and clustering measures; `data`, the name of the set; with steps also `reranked`, the retrieval
        measures after them; `data_changes`, what has changed in the run's own data since it was trained, if anything
        has. Of its own data the run is tested on the classes on which it was, whatever has come since.

    Raises:
        RunError: the folder is no run, or has no final weights yet.
        DataError, InvalidInput: the data set cannot be had, or a step cannot be taken.
    """
    run = RunFolder(path)
    config = run.read_config()
    if steps is not None and isinstance(steps.whiten, int) and steps.whiten > config.model.dim:
        raise InvalidInput(
            f"rerank.whiten is {steps.whiten}, but the embeddings of {path} have {config.model.dim} dimensions; pass "
            f"at most {config.model.dim}, or all"
        )
    if data is not None:
        data = dataclasses.replace(data, image_size=config.data.image_size, transform=config.data.transform)
        config = dataclasses.replace(config, data=data)
    # No classes need be held out or fill a batch.
    one = SamplerConfig(classes_per_batch=1, images_per_class=2)
    flip = config.flip if flip is None else flip
    job = reopen(path, dataclasses.replace(config, protocol="last", sampler=one, flip=flip))
    vectors, images = job.embed(job.dataset.test)
    measures: dict[str, Any] = measure(vectors, images, job.dataset.recall_at, seed=config.seed)
    if steps is not None:
        training = None if steps.whiten is None else job.embed(job.dataset.train)[0]
        measures["reranked"] = measure_post_processed(vectors, images, job.dataset.recall_at, steps, training)
    measures |= {"data": job.dataset.name, "broken_images": sorted(str(path) for path in job.broken)}
    return measures | ({"data_changes": job.changes} if job.changes else {})


def __getattr__(name: str) -> Any:
    """`load_trained` and `Trained` by their former place, kept for one release."""
    if name not in ("load_trained", "Trained"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"{__name__}.{name} has moved; import {name} from {_trained.__name__}", DeprecationWarning, stacklevel=2
    )
    return getattr(_trained, name)
