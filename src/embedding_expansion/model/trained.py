"""Opening a trained model: from the folder of a run, or of an export in the format safetensors."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.model.network import EmbeddingModel, make_model
from embedding_expansion.model.weights import load_tensors
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from embedding_expansion.data.transforms import ImageTransform


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        config: the options of the run that trained it.
        model: the network with the weights that the run kept, in evaluation mode.
        preprocessing: what happens to an image before the network sees it.
    """

    config: TrainConfig
    model: EmbeddingModel
    preprocessing: Preprocessing

    @property
    def transform(self) -> ImageTransform:
        """The former form of `preprocessing`, on tensors; kept for one release."""
        from embedding_expansion.data.transforms import test_transform

        warnings.warn("Trained.transform is deprecated; use Trained.preprocessing", DeprecationWarning, stacklevel=2)
        return test_transform(self.preprocessing.size, str(self.config.data.transform))


def load_trained(path: Path) -> Trained:
    """Opens the model of a folder that holds config.yaml and model.safetensors.

    Args:
        path: of a run, or of an export in the format safetensors.

    Raises:
        RunError: the folder is no run, has no final weights yet, or a file of it is broken.
    """
    run = RunFolder(path)
    config = run.read_config()
    size, name = config.data.image_size, config.data.transform
    if size is None or name is None:
        raise RunError(
            f"{path / 'config.yaml'} leaves image_size or transform open; restore the file that the run wrote"
        )
    preprocessing = Preprocessing.of(size, name)
    model = make_model(config.model, fetch_weights=False)
    load_weights(run, model)
    return Trained(config, model.eval(), preprocessing)


def load_weights(run: RunFolder, model: EmbeddingModel) -> None:
    """Puts the weights that a run kept into its network.

    Raises:
        RunError: the run has no final weights yet, they are broken, or they are of another network.
    """
    if not run.model.exists():
        raise RunError(f"{run.path} has no final weights; finish it first: embex train --resume {run.path}")
    tensors, _ = load_tensors(run.model)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            f"{run.model} does not fit the model of config.yaml ({str(error).splitlines()[-1].strip()})"
        ) from error


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one; of several each local rank has its own.

    Raises:
        InvalidInput: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"there is no device {name!r}; pass cpu, cuda or cuda:NUMBER") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device is {name}, but torch finds no CUDA here; pass cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # each backend that is not there has its own
        raise InvalidInput(f"device is {name}, which torch cannot use here; pass cpu, cuda or cuda:NUMBER") from error
    return device
