"""Describes the model of a run: the content of model.json."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path

from embedding_expansion import __version__
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.sources import SOURCES
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.manifest import VERSION, Manifest
from embedding_expansion.model.trained import Trained
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder

_TIMES = ("images_per_second", "wall_seconds")


def describe_run(path: Path, trained: Trained, kind: str) -> Manifest:
    """Describes the model of a run, without paths of this machine.

    Args:
        path: the run folder.
        trained: what `load_trained` made of it.
        kind: the format of the model.

    Raises:
        InvalidInput: the run was trained on vectors.
        RunError: metrics.json is broken.
    """
    config, model = public(trained.config), trained.model
    if model.takes_vectors:
        raise InvalidInput(
            f"{path} embeds vectors, not images; embed vectors with embex embed {path} FEATURES.npz, or pass a run "
            "that was trained on images"
        )
    preprocessing = trained.preprocessing
    dimensions = model.dimensions
    metrics = RunFolder(path).read_metrics() or {}
    content = {
        "version": VERSION,
        "format": kind,
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": ["batch", 3, preprocessing.size, preprocessing.size],
            "channels": "RGB",
        },
        "preprocessing": dataclasses.asdict(preprocessing)
        | {
            "steps": _steps(preprocessing),
            "interpolation": "bilinear, antialiased",
            "mean": _numbers(model.mean.flatten().tolist()),
            "std": _numbers(model.std.flatten().tolist()),
            "normalised_by": "the model",
            "channels_of_the_network": model.channels,
        },
        "embedding": {"name": "embeddings", "dtype": "float32", "dimensions": dimensions, "l2_normalised": True},
        "model": dataclasses.asdict(config.model),
        "training": {
            "data": str(metrics.get("data", config.data.name)),
            "licence_of_the_data": SOURCES[config.data.name].licence if config.data.name in SOURCES else None,
            "loss": config.loss,
            "expansion": dataclasses.asdict(config.expansion),
            "steps": config.steps,
            "seed": config.seed,
        },
        "weights_came_from": weights_came_from(trained.config),
        "measures": {name: value for name, value in metrics.items() if isinstance(value, float) and name not in _TIMES},
        "selected_by": metrics.get("selected_by"),
        "measured_with_flip": config.flip,
        "versions": {"embedding-expansion": __version__, "torch": version("torch")},
    }
    return Manifest(preprocessing, dimensions, content)


def public(config: TrainConfig) -> TrainConfig:
    """The configuration without private details: file names instead of paths, and no weights to download."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, name=Path(config.data.name).name, root=None),
        model=dataclasses.replace(config.model, pretrained=False, weights=None),
        out=None,
    )


def weights_came_from(config: TrainConfig) -> dict[str, str | None]:
    """The initial weights of the training, and their licence as far as it is known."""
    model = config.model
    if model.weights is not None:
        return {"start": f"a file {Path(model.weights).name}", "licence": None}
    if not model.pretrained:
        return {"start": "random weights", "licence": "none to regard"}
    if not model.backbone.startswith("timm/"):
        return {
            "start": f"torchvision's weights of {model.backbone}, trained on ImageNet",
            "licence": "torchvision is BSD-3-Clause; it says that weights may be under terms of the data behind them, "
            "and ImageNet is for non-commercial research",
        }
    return {"start": f"{model.backbone}, as timm has it", "licence": _timm_licence(model.backbone)}


def _timm_licence(backbone: str) -> str | None:
    """The licence that timm records; None if it records none or is not installed."""
    try:
        from timm.models import get_pretrained_cfg
    except ImportError:
        return None
    entry = get_pretrained_cfg(backbone.removeprefix("timm/"))
    licence: str | None = getattr(entry, "license", None)
    return licence


def _steps(preprocessing: Preprocessing) -> list[str]:
    size = preprocessing.size
    if preprocessing.short_side is None:
        resized = [f"resize to {size} x {size}, whatever the aspect ratio"]
    else:
        resized = [f"resize the short side to {preprocessing.short_side}", f"cut {size} x {size} from the middle"]
    return ["decode to RGB, upright", *resized, "pass uint8 as batch, channel, row, column"]


def _numbers(values: list[float]) -> list[float]:
    return [round(value, 6) for value in values]
