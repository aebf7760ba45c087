"""Opening a finished run again: the model that it kept, for embedding and for evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from embedding_expansion.data.transforms import ImageTransform, test_transform
from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.model import EmbeddingModel
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.training.checkpoint import load_tensors
from embedding_expansion.training.config import DataConfig, SamplerConfig, TrainConfig
from embedding_expansion.training.evaluation import measure
from embedding_expansion.training.factory import make_model
from embedding_expansion.training.fingerprint import changed_data, fingerprint
from embedding_expansion.training.job import Job, prepare
from embedding_expansion.training.post_processing import measure_post_processed
from embedding_expansion.training.run_folder import RunFolder
from embedding_expansion.training.split import Split, keep, located, open_data


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run's configuration, its model in evaluation mode, and the transform that its test images went through."""

    config: TrainConfig
    model: EmbeddingModel
    transform: ImageTransform


def load_trained(path: Path) -> Trained:
    """Opens the model of a run.

    Raises:
        RunError: the folder is no run, or has no final weights yet.
    """
    run = RunFolder(path)
    config = run.read_config()
    model = make_model(config.model, fetch_weights=False)
    _load_weights(run, model)
    size, name = config.data.image_size, config.data.transform
    if size is None or name is None:
        raise RunError(
            f"{path / 'config.yaml'} leaves image_size or transform open; restore the file that the run wrote"
        )
    return Trained(config, model.eval(), test_transform(size, name))


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
    _load_weights(run, job.model)
    return job


def _is_same(data: DataConfig, own: DataConfig) -> bool:
    """Whether this is the data set of a run, wherever it lies now."""
    return (located(data).name, data.train_classes) == (located(own).name, own.train_classes)


def _kept_split(run: RunFolder, config: TrainConfig) -> tuple[Split | None, list[str]]:
    """The data of a run on the split that it was trained on, and what has changed; None where no split was noted."""
    before = run.read_fingerprint()
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


def _load_weights(run: RunFolder, model: nn.Module) -> None:
    if not run.model.exists():
        raise RunError(f"{run.path} has no final weights; finish it first: embex train --resume {run.path}")
    tensors, _ = load_tensors(run.model)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            f"{run.model} does not fit the model of config.yaml ({str(error).splitlines()[-1].strip()})"
        ) from error
