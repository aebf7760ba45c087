"""Exports a model for other programs: a folder with the model in a common format, its description and a model card."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.errors import InvalidInput, RunError, UnknownName
from embedding_expansion.files import check_free, make_folder, write_atomically, write_json
from embedding_expansion.inference.card import card
from embedding_expansion.inference.describe import describe_backbone, describe_run, public, public_model
from embedding_expansion.inference.embedder import Embedder, source_of
from embedding_expansion.inference.manifest import CARD, FILES, MANIFEST, Manifest, read_manifest
from embedding_expansion.inference.networks import Network, onnx_network
from embedding_expansion.inference.thresholds import Thresholds, read_thresholds, write_thresholds
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.model.plain_backbone import PlainBackbone
from embedding_expansion.model.towers import TextTower
from embedding_expansion.model.trained import load_network, load_trained
from embedding_expansion.model.weights import save_tensors
from embedding_expansion.runs import config as configuration

#: The largest allowed difference of an embedding's entry from PyTorch's.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Exportable:
    """A model to export.

    Attributes:
        model: the network, on the CPU.
        manifest: the content of model.json.
        options: the content of config.yaml.
        data: what it was trained on.
        thresholds: the calibrated thresholds.
        text: the text tower of a pair of towers, which only the format safetensors stores.
    """

    model: EmbeddingModel
    manifest: Manifest
    options: str
    data: str | None
    thresholds: Thresholds
    text: TextTower | None = None

    @property
    def backbone(self) -> str:
        """The name of the backbone."""
        return str(self.manifest.entry("model", "backbone"))

    @property
    def size(self) -> int:
        """The side of the images in pixels."""
        return self.manifest.preprocessing.size


def export(model: str | os.PathLike[str] | Embedder, kind: str, out: Path) -> float:
    """Exports the model of a run together with its calibrated thresholds, or a backbone as it comes.

    The folder is written atomically after the exported model has been checked.

    Args:
        model: a run folder, or an `Embedder` of a run folder or of `Embedder.from_backbone`.
        kind: the format: "onnx", "torch" (`torch.export`) or "safetensors".
        out: the folder to write.

    Returns:
        The largest difference of an embedding's entry from PyTorch's, measured on images of noise.

    Raises:
        UnknownName: the format is unknown.
        InvalidInput: the format needs a library that is not installed, or does not support the network; or the
            embedder is one of a module of yours.
        RunError: `model` is not a run, `out` is not empty, or the exported model does not agree with PyTorch.
    """
    if kind not in FILES:
        raise UnknownName("format", kind, FILES)
    if kind == "onnx":
        _check_installed()
    check_free(out)
    source = source_of(model)
    found = _of_run(source, kind) if isinstance(source, Path) else _of_backbone(source, kind)
    difference = 0.0

    def fill(folder: Path) -> None:
        nonlocal difference
        written = _WRITERS[kind](found, folder)
        difference = disagreement(found.model, written, found.size)
        check_agreement(difference, found.backbone, kind)
        content = found.manifest.content | {"checked": {"largest_difference": difference, "tolerance": TOLERANCE}}
        write_json(folder / MANIFEST, content)
        if found.thresholds:
            write_thresholds(folder, found.thresholds)
        write_card(folder, found.thresholds)

    make_folder(out, fill)
    return difference


def _of_run(path: Path, kind: str) -> _Exportable:
    trained, thresholds = load_trained(path), read_thresholds(path)
    config = public(trained.config)
    manifest = describe_run(path, trained, kind)
    return _Exportable(trained.model, manifest, configuration.dump(config), config.data.name, thresholds)


def _of_backbone(backbone: PlainBackbone, kind: str) -> _Exportable:
    model = backbone.model if backbone.model.mean.device.type == "cpu" else copy.deepcopy(backbone.model).cpu()
    options = configuration.dump_model(public_model(backbone.config))
    return _Exportable(model, describe_backbone(backbone, kind), options, None, {}, backbone.text)


def write_card(folder: Path, thresholds: Thresholds) -> None:
    """Writes the model card of an export atomically.

    Raises:
        RunError: model.json is broken, or the card cannot be written.
    """
    text = card(read_manifest(folder).content, thresholds)
    write_atomically(folder / CARD, lambda partial: partial.write_text(text, encoding="utf-8"))


def disagreement(model: EmbeddingModel, found: Network, size: int) -> float:
    """The largest difference between a model and its exported form, on batches of 1, 2 and 5 images of noise."""
    draw = np.random.default_rng(0)
    largest = 0.0
    for count in (1, 2, 5):
        images = draw.integers(0, 256, (count, 3, size, size), dtype=np.uint8)
        expected = model.embed(torch.from_numpy(images)).numpy()
        largest = max(largest, float(np.abs(expected - found(images)).max()))
    return largest


def check_agreement(difference: float, backbone: str, kind: str) -> None:
    """Checks that an exported model agrees with PyTorch.

    Raises:
        RunError: the difference is NaN or exceeds the tolerance.
    """
    if not difference <= TOLERANCE:
        raise RunError(
            f"{backbone} in the format {kind} differs from PyTorch by {difference:.1e}, more than {TOLERANCE:.0e}, so "
            "nothing was written; export with --format safetensors, or take another backbone"
        )


class _NormalizedModel(nn.Module):
    """The model followed by L2 normalisation, so that other programs need not normalise."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return functional.normalize(self.model(images), dim=1)


def _write_onnx(found: _Exportable, folder: Path) -> Network:
    path = folder / FILES["onnx"]
    _quietly(
        lambda example, shapes: torch.onnx.export(
            _NormalizedModel(found.model).eval(),
            (example,),
            path,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["images"],
            output_names=["embeddings"],
            external_data=False,
            verbose=False,
        ),
        found,
    )
    return onnx_network(path, "cpu")[0]


def _write_torch(found: _Exportable, folder: Path) -> Network:
    path = folder / FILES["torch"]

    def write(example: Tensor, shapes: dict[str, object]) -> None:
        torch.export.save(
            torch.export.export(_NormalizedModel(found.model).eval(), (example,), dynamic_shapes=shapes), path
        )

    _quietly(write, found)
    program = torch.export.load(path).module()  # safe: the file is the one just written

    def run(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            embeddings: npt.NDArray[np.float32] = program(torch.from_numpy(images)).numpy()
        return embeddings

    return run


def _write_safetensors(found: _Exportable, folder: Path) -> Network:
    path = folder / FILES["safetensors"]
    save_tensors(path, found.model.state_dict(), {"data": found.data})
    (folder / "config.yaml").write_text(found.options, encoding="utf-8")
    if found.text is not None:
        found.text.save(folder)
    again = load_network(folder)
    return lambda images: again.embed(torch.from_numpy(images)).numpy()


_WRITERS: dict[str, Callable[[_Exportable, Path], Network]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "safetensors": _write_safetensors,
}


def _quietly(write: Callable[[Tensor, dict[str, object]], object], found: _Exportable) -> None:
    """Runs an exporter with an example input and a free batch dimension, and suppresses its warnings."""
    size = found.size
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    shapes: dict[str, object] = {"images": {0: torch.export.Dim("batch", min=1)}}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            write(example, shapes)
    except Exception as error:  # unsupported operators raise various errors
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(
            f"{found.backbone} cannot be exported to this format ({reason}); "
            "export with --format safetensors, or take another backbone"
        ) from error
    finally:
        logging.disable(level)


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InvalidInput(
            f"--format onnx needs the library {error.name}; pip install 'embedding-expansion[export]'"
        ) from error
