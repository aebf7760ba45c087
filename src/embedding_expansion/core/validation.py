"""The mark of functions that check what they are given themselves. Loads nothing, not even torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def validates(function: F) -> F:
    """Mark a function that checks its arguments itself.

    Where annotations are checked at run time (jaxtyping's import hook) such a function is left alone, so that the
    caller gets this package's errors and not the checker's.
    """
    function.__no_type_check__ = True  # type: ignore[attr-defined]
    return function
