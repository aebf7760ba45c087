"""Refuses names in a configuration that do not exist, before torch is imported, which takes seconds.

The losses and their parameters are read from their source, so that there is no second list of them; those of backbones
are read from the source of their libraries (`model/backbone_names.py`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from embedding_expansion.data.sources import SOURCES
from embedding_expansion.errors import UnknownName
from embedding_expansion.model.backbone_names import check_backbone_name
from embedding_expansion.runs.options import MINERS, TrainConfig

_LOSSES = Path(__file__).parents[1] / "core" / "losses"
#: Short forms of options.
SHORT = {
    "--data": "--data.name",
    "--loss": "--loss.name",
    "--method": "--method.name",
    "--model": "--model.backbone",
    "--expansion": "--expansion.n",
    "--memory": "--memory.size",
    "--miner": "--miner.name",
}
_METHODS = Path(__file__).parents[1] / "generation"
#: Parameters that a run sets itself.
_OF_THE_RUN = ("num_classes", "embedding_size", "batch_size", "loss", "head", "width")


def check_names(config: TrainConfig) -> None:
    """Checks the names of the data set, the transform, the miner, the backbone, and the parameters of loss and method.

    Raises:
        UnknownName: one of them does not exist. The message is that of the module that owns the name.
    """
    from embedding_expansion.data.preprocessing import TRANSFORMS  # NumPy

    data, losses = config.data, loss_parameters()
    path = Path(data.name).expanduser()
    if data.name not in SOURCES and not path.exists() and not path.suffix and len(path.parts) == 1:
        raise UnknownName("data set (nor a folder of class folders)", data.name, SOURCES)
    if data.transform is not None and data.transform not in TRANSFORMS:
        raise UnknownName("transform", data.transform, TRANSFORMS)
    if config.miner.name not in MINERS:
        raise UnknownName("miner", config.miner.name, MINERS)
    if config.model.backbone is not None:
        check_backbone_name(config.model.backbone)
    name = str(config.loss["name"])
    if name not in losses:
        raise UnknownName("loss", name, losses)
    for parameter in config.loss.keys() - {"name"}:
        if parameter not in losses[name]:
            raise UnknownName(f"parameter of the loss {name}", parameter, losses[name])
    if config.has_method:
        method = str(config.method["name"])
        known = method_parameters()[method]
        for parameter in config.method.keys() - {"name"}:
            if parameter not in known:
                raise UnknownName(f"parameter of the method {method}", parameter, known)


def loss_parameters() -> dict[str, tuple[str, ...]]:
    """The names of all losses with those of their parameters, from the classes in `core/losses/`."""
    return {
        name: parameters
        for file in sorted(_LOSSES.glob("*.py"))
        for name, parameters in _declared(ast.parse(file.read_text(encoding="utf-8")))
    }


def method_parameters() -> dict[str, tuple[str, ...]]:
    """The names of all methods with those of their parameters, from the classes in `generation/`."""
    return {
        str(keyword.value.value): _parameters_of(made)
        for file in sorted(_METHODS.glob("*.py"))
        for made in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(made, ast.ClassDef)
        for keyword in made.keywords
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant)
    }


def _declared(module: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The losses of a file: classes that are declared with `function=...`, and `name=...` if their name is another."""
    for made in (node for node in module.body if isinstance(node, ast.ClassDef)):
        keywords = {keyword.arg: keyword.value for keyword in made.keywords}
        if not isinstance(function := keywords.get("function"), ast.Name):
            continue
        given = keywords.get("name")
        name = str(given.value) if isinstance(given, ast.Constant) else function.id
        yield name, _parameters_of(made)


def _parameters_of(made: ast.ClassDef) -> tuple[str, ...]:
    """The parameters of a class that its user chooses."""
    own = next((part for part in made.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    parameters = [] if own is None else [*own.args.args[1:], *own.args.kwonlyargs]
    return tuple(each.arg for each in parameters if each.arg not in _OF_THE_RUN)
