"""The methods that synthesise samples. Each is one file here, and one line in `methods.py` that says what it takes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from embedding_expansion.generation.method import Method


def _found() -> Iterator[type[Method]]:
    """The methods of all files in this folder."""
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__:
                yield value


#: The methods by name.
METHODS: dict[str, type[Method]] = {method.name: method for method in _found() if method is not Method}
