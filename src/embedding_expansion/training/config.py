"""The former place of `embedding_expansion.runs.options`, kept for one release."""

from __future__ import annotations

import warnings
from typing import Any

from embedding_expansion.runs import options


def __getattr__(name: str) -> Any:
    found = getattr(options, name)
    warnings.warn(
        f"{__name__}.{name} has moved; import {name} from {options.__name__}", DeprecationWarning, stacklevel=2
    )
    return found
