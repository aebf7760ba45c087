"""The oracles, by the name of the loss. An oracle is known as soon as its file marks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Oracle(NamedTuple):
    """A slow loop of an equation, and what the loss says of itself, written apart from the loss."""

    function: Callable[..., Any]
    metric: Literal["euclidean", "inner", "snr"]
    others: dict[str, Any]  # parameters other than the default ones, which the tests try as well
    expandable: bool


KNOWN: dict[str, Oracle] = {}


def oracle(
    metric: Literal["euclidean", "inner", "snr"], others: dict[str, Any], *, expandable: bool = True
) -> Callable[[F], F]:
    """Mark the oracle of the loss of that name."""

    def mark(function: F) -> F:
        KNOWN[function.__name__] = Oracle(function, metric, others, expandable)
        return function

    return mark
