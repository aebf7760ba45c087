"""Describes the model of a run, or a backbone as it comes: the content of model.json."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_expansion import __version__
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.sources import SOURCES
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.manifest import VERSION, Manifest
from embedding_expansion.model.trained import Trained
from embedding_expansion.runs.options import ModelConfig, TrainConfig
from embedding_expansion.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from embedding_expansion.model.network import EmbeddingModel
    from embedding_expansion.model.plain_backbone import PlainBackbone

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
    metrics = RunFolder(path).read_metrics() or {}
    content = _of_model(model, trained.preprocessing, kind) | {
        "model": dataclasses.asdict(config.model),
        "training": {
            "data": str(metrics.get("data", config.data.name)),
            "licence_of_the_data": SOURCES[config.data.name].licence if config.data.name in SOURCES else None,
            "loss": config.loss,
            "expansion": dataclasses.asdict(config.expansion),
            **({"method": config.method} if config.has_method else {}),
            "steps": config.steps,
            "seed": config.seed,
        },
        "weights_came_from": weights_came_from(trained.config.model),
        "measures": {name: value for name, value in metrics.items() if isinstance(value, float) and name not in _TIMES},
        "selected_by": metrics.get("selected_by"),
        "measured_with_flip": config.flip,
    }
    return Manifest(trained.preprocessing, model.dimensions, content)


def describe_backbone(backbone: PlainBackbone, kind: str) -> Manifest:
    """Describes a backbone as it comes: there is no training, and what was assumed about its weights is an entry.

    Args:
        backbone: the backbone.
        kind: the format of the model.
    """
    content = _of_model(backbone.model, backbone.preprocessing, kind) | {
        "model": dataclasses.asdict(public_model(backbone.config)),
        "training": None,
        "weights_came_from": weights_came_from(backbone.config),
        "assumed": backbone.assumed or None,
        "measures": {},
        "selected_by": None,
        "measured_with_flip": False,
    }
    return Manifest(backbone.preprocessing, backbone.model.dimensions, content)


def _of_model(model: EmbeddingModel, preprocessing: Preprocessing, kind: str) -> dict[str, Any]:
    """What model.json says about input and output."""
    return {
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
        "embedding": {"name": "embeddings", "dtype": "float32", "dimensions": model.dimensions, "l2_normalised": True},
        "versions": {"embedding-expansion": __version__, "torch": version("torch")},
    }


def public(config: TrainConfig) -> TrainConfig:
    """The configuration without private details: file names instead of paths, and no weights to download."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, name=Path(config.data.name).name, root=None),
        model=public_model(config.model),
        out=None,
    )


def public_model(model: ModelConfig) -> ModelConfig:
    """The options of the network without weights to load, because those of the folder replace them."""
    return dataclasses.replace(model, pretrained=False, weights=None)


def weights_came_from(model: ModelConfig) -> dict[str, str | None]:
    """The weights of the backbone before any training, and their licence as far as it is known."""
    if model.weights is not None:
        return {"start": f"a file {Path(model.weights).name}", "licence": None}
    if not model.pretrained or model.backbone is None:
        return {"start": "random weights", "licence": "none to regard"}
    if model.backbone.startswith("open_clip/"):
        return {"start": f"{model.backbone}, as open_clip has it", "licence": None}
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
