"""The pair losses. Each consists of a pure function of a table, `Pairs -> Terms`, and the module that users call.

A function returns what every anchor adds and its weight. The normalisers of the papers are therefore exact, even if
classes differ in size or a batch is spread over ranks or row blocks.

To register a loss, add its file here: the registries below and the names of this package are collected from the files.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.proxy_loss import ProxyLoss


def _found() -> Iterator[type[PairLoss]]:
    """The losses of all files in this folder, in the order of the files and of the classes in a file."""
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, PairLoss) and value.__module__ == module.__name__:
                yield value


_ALL = list(_found())
#: The losses that compare embeddings with each other, by the name of their function.
LOSSES: dict[str, type[PairLoss]] = {loss.name: loss for loss in _ALL if not issubclass(loss, ProxyLoss)}
#: The losses that compare embeddings with learnt proxies.
PROXY_LOSSES: dict[str, type[ProxyLoss]] = {loss.name: loss for loss in _ALL if issubclass(loss, ProxyLoss)}

globals().update({loss.__name__: loss for loss in _ALL}, **{loss.function.__name__: loss.function for loss in _ALL})
