"""The former place of `embedding_expansion.inference.vector_embedder`, kept for one release."""

from __future__ import annotations

import warnings
from typing import Any

from embedding_expansion.inference import vector_embedder


def __getattr__(name: str) -> Any:
    found = getattr(vector_embedder, name)
    warnings.warn(f"{__name__} has moved; import {name} from {vector_embedder.__name__}", DeprecationWarning, 2)
    return found
