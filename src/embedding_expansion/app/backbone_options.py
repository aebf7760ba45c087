"""The model of a command: a run folder, an export, or a backbone as it comes with its options."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jsonargparse

from embedding_expansion.errors import InvalidInput, RunError, UnknownName
from embedding_expansion.model.backbone_names import check_backbone_name

if TYPE_CHECKING:
    from embedding_expansion.inference.embedder import Embedder
    from embedding_expansion.model.plain_backbone import PlainBackbone

#: The help of the argument that names the model.
MODEL = "a run folder, an export folder, or a backbone as it comes: a torchvision name, timm/NAME or open_clip/NAME"
OPTIONS = ("weights", "pretrained", "mean", "std", "image_size", "pooling")
_KINDS: dict[str, tuple[Any, str]] = {
    "weights": (str, "its weights, a .safetensors file"),
    "pretrained": (bool, "download its pretrained weights"),
    "mean": (list[float], "mean of the pixels in 0..1; default: as the weights say, or else the backbone's library"),
    "std": (list[float], "standard deviation of the pixels; default: as for the mean"),
    "image_size": (int, "side of the images in pixels; default: as for the mean"),
    "pooling": (Literal["avg", "gem"], "global pooling of its feature map; default: avg"),
}


def add_backbone_options(options: jsonargparse.ArgumentParser) -> None:
    """Adds the options of a backbone to those of a command."""
    group = options.add_argument_group("options of a backbone as it comes; not with a run or an export")
    for name, (kind, text) in _KINDS.items():
        group.add_argument(f"--{name}", type=kind | None, default=None, help=text)


def refuse_backbone_options(given: jsonargparse.Namespace, name: str, what: str) -> None:
    """Refuses options of a backbone where there is none.

    Args:
        given: the arguments.
        name: what was given instead of a backbone.
        what: what that is, such as "a run folder or an export".

    Raises:
        InvalidInput: an option of a backbone is given.
    """
    for option in OPTIONS:
        if given[option] not in (None, False):
            raise InvalidInput(f"--{option} is for backbones, but {name} is {what}; omit it")


def is_backbone(name: str, given: jsonargparse.Namespace) -> bool:
    """Whether a name is not that of a folder, so that it must be that of a backbone.

    Raises:
        InvalidInput: it is a folder, but an option of a backbone is given, or neither a folder nor a backbone.
        RunError: it is the path of something that does not exist, or of a file.
    """
    if os.path.isdir(name):
        refuse_backbone_options(given, name, "a run folder or an export")
        return False
    parts = Path(name).parts
    if os.path.exists(name) or (len(parts) > 1 and parts[0] not in ("timm", "open_clip")) or not parts:
        raise RunError(
            f"there is no folder {name or '(an empty name)'}, and no backbone is named so; pass a run folder, an "
            "export folder, or a backbone such as resnet50, timm/NAME or open_clip/NAME"
        )
    try:
        check_backbone_name(name)
    except UnknownName as error:
        raise InvalidInput(f"there is no folder {name}, and {error}") from error
    return True


def chosen_model(name: str, given: jsonargparse.Namespace, *, batch_size: int = 64) -> Path | Embedder:
    """The folder of a run or export, or the opened backbone. What was assumed about its weights goes to stderr.

    Raises:
        InvalidInput, RunError, DataError: the name is neither that of a folder nor of a backbone, the backbone cannot
            be opened, or it has no weights.
    """
    if not is_backbone(name, given):
        return Path(name)
    from embedding_expansion.inference.embedder import Embedder

    embedder = Embedder.from_backbone(name, **given_options(given), device=given.device, batch_size=batch_size)
    if given.weights is None and not given.pretrained:
        fetched = "" if name == "conv4" else "--pretrained true or "
        raise InvalidInput(
            f"{name} has only random weights; pass {fetched}--weights FILE, or a run folder made by embex train"
        )
    _print_assumed(embedder.assumed)
    return embedder


def opened_model(name: str, given: jsonargparse.Namespace) -> Embedder:
    """As `chosen_model`, with runs and exports opened as well."""
    from embedding_expansion.inference.embedder import Embedder

    model = chosen_model(name, given)
    return model if isinstance(model, Embedder) else Embedder.load(model, device=given.device)


def plain_backbone(name: str, given: jsonargparse.Namespace) -> PlainBackbone:
    """The backbone of a name for an evaluation, where random weights are allowed.

    Raises:
        InvalidInput, DataError: it cannot be opened.
    """
    from embedding_expansion.model.plain_backbone import open_backbone

    backbone = open_backbone(name, **given_options(given))
    _print_assumed(backbone.assumed)
    return backbone


def given_options(given: jsonargparse.Namespace) -> dict[str, Any]:
    """The options of a backbone that were given."""
    return {name: given[name] for name in OPTIONS if given[name] is not None}


def _print_assumed(sentence: str) -> None:
    if sentence:
        print(f"embex: {sentence}", file=sys.stderr)
