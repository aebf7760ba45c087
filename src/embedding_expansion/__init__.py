"""Embedding expansion for deep metric learning: augmentation in embedding space, for any pair loss.

    loss = EmbeddingExpansion(MultiSimilarityLoss(), n=2)
    loss(embeddings, labels).backward()

`__init__.pyi` lists the public names. Each is loaded when it is first used: importing the package loads nothing heavy.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import lazy_loader

from embedding_expansion.core.adapters import register

__version__ = "0.2.0.dev0"

#: Former public names and their new names. A former name works for one release, with a warning.
_RENAMED: dict[str, str] = {}

_load, _, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*_names, "__version__"]


register(
    pytorch_metric_learning="embedding_expansion.interop.metric_learning",
    sentence_transformers="embedding_expansion.interop.sentence_transformers",
)


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        message = f"{__name__}.{name} is deprecated and goes with the next release: use {__name__}.{new}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return _load(new)
    if name not in _names:  # Python suggests a name of `dir(obj)` that is spelt alike
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    return _load(name)


def __dir__() -> list[str]:
    return sorted(__all__)
