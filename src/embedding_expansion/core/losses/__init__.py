"""The pair losses: each a pure function of a table, `Pairs -> Terms`, and beside it the module that users call.

The functions return what every anchor adds and how much it weighs, so that the papers' normalisers come out exactly,
also when classes differ in size and when a batch is spread over ranks or row blocks.

A loss is known as soon as its file is here: the registries below, and the names of this package, come from the files.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.proxy_loss import ProxyLoss


def _found() -> Iterator[type[PairLoss]]:
    """The losses of all files here, in the order of the files and within a file."""
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
