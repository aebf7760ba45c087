"""A registry of the modules that adapt losses and miners of other libraries. `core` itself names no other library."""

from __future__ import annotations

import importlib
from types import ModuleType

_ADAPTERS: dict[str, str] = {}


def register(**adapters: str) -> None:
    """Registers the module that adapts the losses and miners of a library, `library="module"`, without importing it.

    A module that adapts losses defines `adapted(loss, scope, options)`, which returns the `PairLoss` to expand. A
    module that adapts miners defines `mined(miner, pairs, batch, columns)`, which returns the table with the pairs that
    the miner keeps.
    """
    _ADAPTERS.update(adapters)


def adapter_of(thing: object) -> ModuleType | None:
    """Imports the module that adapts an object of another library, by its class or a base; None if there is none."""
    for kind in type(thing).__mro__:
        library = kind.__module__.split(".")[0]
        if library in _ADAPTERS:
            return importlib.import_module(_ADAPTERS[library])
    return None
