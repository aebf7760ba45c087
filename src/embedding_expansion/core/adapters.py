"""Which module knows the losses and miners of another library. The mathematics itself names no other library."""

from __future__ import annotations

import importlib
from types import ModuleType

_ADAPTERS: dict[str, str] = {}


def register(**adapters: str) -> None:
    """Name the module that adapts the losses and miners of a library, `library="module"`; it is imported when needed.

    A module that adapts losses has `adapted(loss, scope, options)`, the `PairLoss` to expand; one that adapts miners
    has `mined(miner, pairs, batch, columns)`, the table with the pairs that the miner keeps.
    """
    _ADAPTERS.update(adapters)


def adapter_of(thing: object) -> ModuleType | None:
    """The module that adapts an object of another library, or of a class derived from one; None where there is none."""
    for kind in type(thing).__mro__:
        library = kind.__module__.split(".")[0]
        if library in _ADAPTERS:
            return importlib.import_module(_ADAPTERS[library])
    return None
