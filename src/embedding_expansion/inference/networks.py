"""Models as functions of NumPy arrays, run by torch or by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedding_expansion.errors import InvalidInput, RunError

if TYPE_CHECKING:
    from embedding_expansion.model.network import EmbeddingModel

#: uint8 images (b, 3, size, size) -> L2-normalised float32 embeddings (b, d)
Network: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def torch_network(model: EmbeddingModel, device_name: str) -> tuple[Network, str]:
    """Wraps a model of this package; returns the function and the name of its device.

    Raises:
        InvalidInput: the device does not exist.
    """
    import torch

    from embedding_expansion.model.trained import find_device

    device = find_device(device_name)
    model = model.to(device).eval()

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        embeddings: npt.NDArray[np.float32] = model.embed(torch.from_numpy(images).to(device)).cpu().numpy()
        return embeddings

    return run, str(device)


def onnx_network(path: Path, device_name: str) -> tuple[Network, str]:
    """Loads an ONNX model without torch; returns the function and the name of its device.

    Raises:
        InvalidInput: onnxruntime is not installed or does not support the device.
        RunError: the file is missing, broken, or not such a model.
    """
    onnxruntime = _onnxruntime(path)
    device, providers = _providers(device_name, onnxruntime.get_available_providers())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about its own devices
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    except Exception as error:  # onnxruntime raises different errors for different damage
        raise RunError(f"{path} cannot be read as a model ({_line(error)}); export the run again") from error

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            (embeddings,) = session.run([wanted.name], {given.name: images})
        except Exception as error:
            raise RunError(f"{path} cannot embed images of {images.shape[2]} pixels ({_line(error)})") from error
        return np.asarray(embeddings, dtype=np.float32)

    return run, device


def _onnxruntime(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InvalidInput(
            f"{path} needs the library onnxruntime; run pip install 'embedding-expansion[export]', or pip install "
            "onnxruntime"
        ) from error
    return onnxruntime


def _providers(name: str, available: list[str]) -> tuple[str, list[Any]]:
    """The name of the device, and onnxruntime's providers for it."""
    cuda = "CUDAExecutionProvider"
    if name == "auto":
        name = "cuda" if cuda in available else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdecimal():
        raise InvalidInput(f"there is no device {name!r} for onnxruntime; pass cpu, cuda or cuda:NUMBER")
    if kind == "cpu":
        return name, ["CPUExecutionProvider"]
    if cuda not in available:
        raise InvalidInput(f"device is {name}, but this onnxruntime has no CUDA; install onnxruntime-gpu, or pass cpu")
    return name, [(cuda, {"device_id": int(number or 0)}), "CPUExecutionProvider"]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
