"""Loads a trained model from a run folder, or from an export in the format safetensors."""

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
        config: the options of its run.
        model: the network with the final weights of the run, in evaluation mode.
        preprocessing: the preprocessing of images.
    """

    config: TrainConfig
    model: EmbeddingModel
    preprocessing: Preprocessing

    @property
    def transform(self) -> ImageTransform:
        """The preprocessing of tensors. Deprecated: use `preprocessing`."""
        from embedding_expansion.data.transforms import test_transform

        warnings.warn("Trained.transform is deprecated; use Trained.preprocessing", DeprecationWarning, stacklevel=2)
        return test_transform(self.preprocessing.size, str(self.config.data.transform))


def load_trained(path: Path) -> Trained:
    """Loads the model of a folder with config.yaml and model.safetensors.

    Args:
        path: a run folder, or an export in the format safetensors.

    Raises:
        RunError: the folder is not a run, has no final weights yet, or one of its files is broken.
    """
    run = RunFolder(path)
    config = run.read_config()
    size, name = config.data.image_size, config.data.transform
    if size is None or name is None:
        raise RunError(
            f"{path / 'config.yaml'} lacks data.image_size or data.transform; restore the file that the run wrote"
        )
    preprocessing = Preprocessing.of(size, name)
    return Trained(config, load_network(path), preprocessing)


def load_network(path: Path) -> EmbeddingModel:
    """Loads the network alone, in evaluation mode. The export of a backbone as it comes has nothing else of a run.

    Args:
        path: a run folder, or an export in the format safetensors.

    Raises:
        RunError: as `load_trained`.
    """
    run = RunFolder(path)
    model = make_model(run.read_config().model, fetch_weights=False)
    load_weights(run, model)
    return model.eval()


def load_weights(run: RunFolder, model: EmbeddingModel) -> None:
    """Loads the final weights of a run into its network.

    Raises:
        RunError: the run has no final weights yet, or they are broken or of another network.
    """
    if not run.model.exists():
        raise RunError(f"{run.path} has no final weights; finish the run with embex train --resume {run.path}")
    tensors, _ = load_tensors(run.model)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(
            f"{run.model} does not fit the model of config.yaml ({str(error).splitlines()[-1].strip()})"
        ) from error


def find_device(name: str) -> torch.device:
    """Finds a device by name. "auto" is CUDA if available; "cuda" is the device of the local rank.

    Raises:
        InvalidInput: the device does not exist on this machine.
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
        raise InvalidInput(f"device is {name}, but torch finds no CUDA device; pass cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # missing backends raise different errors
        raise InvalidInput(
            f"device is {name}, which torch cannot use on this machine; pass cpu, cuda or cuda:NUMBER"
        ) from error
    return device
