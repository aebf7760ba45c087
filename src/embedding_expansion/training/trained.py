"""Opening a finished run again: the model that it kept, for embedding and for evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from embedding_expansion.data.transforms import ImageTransform, test_transform
from embedding_expansion.errors import RunError
from embedding_expansion.model import EmbeddingModel
from embedding_expansion.training.checkpoint import load_tensors
from embedding_expansion.training.config import DataConfig, SamplerConfig, TrainConfig
from embedding_expansion.training.evaluation import measure
from embedding_expansion.training.factory import make_model
from embedding_expansion.training.job import prepare
from embedding_expansion.training.run_folder import RunFolder


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


def evaluate(path: Path, data: DataConfig | None = None, *, flip: bool | None = None) -> dict[str, Any]:
    """Measures a run again, on the test classes of its data set or of another one.

    Args:
        path: the run folder.
        data: another data set; its image size and transform are the run's.
        flip: whether the embedding of each image's mirror image is averaged in; by default as in the run.

    Returns:
        The retrieval and clustering measures, and `data`, the name of the set.

    Raises:
        RunError: the folder is no run, or has no final weights yet.
        DataError, InvalidInput: the data set cannot be had.
    """
    run = RunFolder(path)
    config = run.read_config()
    if data is not None:
        data = dataclasses.replace(data, image_size=config.data.image_size, transform=config.data.transform)
        config = dataclasses.replace(config, data=data)
    # No classes need be held out or fill a batch, and what the run has kept is the average already, where it had one.
    one = SamplerConfig(classes_per_batch=1, images_per_class=2)
    flip = config.flip if flip is None else flip
    config = dataclasses.replace(config, protocol="last", sampler=one, ema=None, flip=flip)
    job = prepare(config, fetch_weights=False)
    _load_weights(run, job.model)
    vectors, images = job.embed(job.dataset.test)
    measures: dict[str, Any] = measure(vectors, images, job.dataset.recall_at, seed=config.seed)
    return measures | {"data": job.dataset.name, "broken_images": sorted(str(path) for path in job.broken)}


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
