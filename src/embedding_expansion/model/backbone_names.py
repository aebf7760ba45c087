"""The names of all backbones, without importing torch.

The libraries know them only once they are imported, which takes seconds. Both mark the function of each model with
`@register_model`, so the names are read from their source.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from embedding_expansion.errors import UnknownName

#: The backbones for vectors, which are images of one pixel.
OF_VECTORS = ("linear", "mlp")
_REGISTERED = re.compile(r"^@register_model(?:\(.*\))?\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)


def backbone_names(library: str) -> list[str]:
    """The backbones of torchvision or timm, as their `list_models` has them; empty if it is not installed."""
    spec = find_spec(library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [file for folder in folders for file in sorted((Path(folder) / "models").glob("*.py"))]
    return [name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8", errors="replace"))]


def check_backbone_name(name: str) -> None:
    """Refuses the name of a backbone that does not exist, as `build_backbone` does.

    Raises:
        UnknownName: there is no such backbone in a library that is installed.
    """
    if name in ("conv4", *OF_VECTORS) or name.startswith("open_clip/"):  # which says its own names
        return
    library, _, short = name.rpartition("/")
    known = backbone_names("timm" if library == "timm" else "torchvision")
    if known and (short.split(".")[0] if library == "timm" else name) not in known:
        raise unknown_timm(short, known) if library == "timm" else unknown_torchvision(name, known)


def unknown_torchvision(name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that neither this package nor torchvision has."""
    return UnknownName("backbone", name, _nearest(name, ["conv4", *known]))


def unknown_timm(name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that timm does not have."""
    return UnknownName("timm backbone", name, _nearest(name, [*known]))


def _nearest(name: str, known: list[str]) -> list[str]:
    """The few names that an error should show: of hundreds, those that are near."""
    return difflib.get_close_matches(name, known, n=4, cutoff=0.4) or ["conv4", "googlenet", "resnet50"]
