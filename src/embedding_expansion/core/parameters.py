"""Checks of the parameters of a loss function and of the options of its module."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict

from embedding_expansion.checks import as_whole, as_wholes, check_name, whole_number
from embedding_expansion.core.adapters import adapter_of
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName

Reduction: TypeAlias = Literal["mean", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "none")


class Options(TypedDict, total=False):
    """The options that every loss takes; see `PairLoss` for their meaning."""

    normalize: bool
    reduction: Reduction
    ignore_index: int | None
    check_finite: bool
    miner: Callable[..., Any] | None
    chunk: int | None
    statistics: bool


DEFAULTS: Options = {
    "normalize": True,
    "reduction": "mean",
    "ignore_index": None,
    "check_finite": False,
    "miner": None,
    "chunk": None,
    "statistics": False,
}


@validates
def checked_options(owner: type, given: Mapping[str, Any], parameters: Mapping[str, Any]) -> Options:
    """Checks the given options and adds the defaults of the others.

    Args:
        owner: the class of the module, for error messages.
        given: the options by name.
        parameters: the parameters of the loss function, as suggestions for a mistyped name.

    Raises:
        UnknownName: if an option does not exist; the error suggests the nearest name.
        InvalidInput, InvalidType: if an option cannot be used, or two of them exclude each other.
    """
    for name in given:
        if name not in DEFAULTS:
            raise UnknownName(f"parameter of {owner.__name__}", name, [*parameters, *DEFAULTS])
    options: Any = {**DEFAULTS, **given}
    for name in ("normalize", "check_finite", "statistics"):
        if not isinstance(options[name], bool):
            raise InvalidType(f"{name} of {owner.__name__} is {options[name]!r}; pass True or False")
    check_name("reduction", options["reduction"], REDUCTIONS)
    miner, chunk, ignored = options["miner"], options["chunk"], options["ignore_index"]
    if ignored is not None and whole_number(ignored) is None:
        raise InvalidType(f"ignore_index is {ignored!r}; pass the label to ignore, a whole number")
    if miner is not None and (isinstance(miner, type) or not callable(miner)):
        raise InvalidType(f"miner is {miner!r}; pass an instance of a miner, or a function that maps Pairs to Pairs")
    if chunk is not None:
        options["chunk"] = as_whole(chunk, "chunk", least=1, optional=True)
        if getattr(miner, "generator", None) is not None:
            raise InvalidInput(
                "chunk computes each block twice, and the miner's generator would draw anew; leave the generator out"
            )
        if adapter_of(miner) is not None:
            raise InvalidInput(
                f"{type(miner).__name__} mines whole batches, but chunk is {chunk!r}; leave one of them out"
            )
    checked: Options = options
    return checked


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a loss function after its table, without keyword-only ones, which users do not set."""
    after = list(inspect.signature(function).parameters.values())[1:]
    return {parameter.name: parameter for parameter in after if parameter.kind is not parameter.KEYWORD_ONLY}


@validates
def checked_parameters(owner: type, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the given parameters of a loss function and adds the defaults of the others.

    Args:
        owner: the class of the module, for error messages; its `positive` lists the parameters that must be above 0.
        function: the loss function.
        given: the values by name.

    Raises:
        UnknownName: if a parameter does not exist; the error suggests the nearest name.
        InvalidInput, InvalidType: if a value has the wrong type, is not finite, or is not above 0.
    """
    known = parameters_of(function)
    for name in given:
        if name not in known:
            raise UnknownName(f"parameter of {owner.__name__}", name, [*known, *DEFAULTS])
    good = {name: checked(owner, function, known[name], value) for name, value in given.items()}
    return {name: parameter.default for name, parameter in known.items()} | good


def checked(owner: type, function: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> Any:
    """Checks a value against the type of the parameter's default, and that it is finite, and above 0 where required.

    Raises:
        UnknownName, InvalidInput, InvalidType: if the value cannot be used; the error says what to pass.
    """
    name, default = parameter.name, parameter.default
    what, above = f"{name} of {owner.__name__}", name in getattr(owner, "positive", ())
    if isinstance(default, str):
        check_name(what, value, typing.get_args(typing.get_type_hints(function)[name]))
        return value
    if isinstance(default, tuple):
        entries = as_wholes(value, what, least=1)
        if not entries:
            raise InvalidInput(f"{what} is empty; pass whole numbers of at least 1, by default {default}")
        return entries
    if isinstance(default, int) and not isinstance(default, bool):
        return as_whole(value, what, least=1 if above else None)
    if hasattr(value, "dtype") and hasattr(value, "tolist") and isinstance(value.tolist(), (bool, int, float)):
        value = value.tolist()  # a scalar of NumPy or torch; the latter loses its gradient
    wants_bool = isinstance(default, bool)
    if isinstance(value, bool) is not wants_bool or not isinstance(value, (bool, int, float)):
        wanted = "True or False" if wants_bool else "a number"
        raise InvalidType(f"{what} is {value!r}; pass {wanted}, by default {default}")
    if not math.isfinite(value) or (above and value <= 0):
        wanted = "above 0" if above else "finite"
        raise InvalidInput(f"{what} is {value}; pass a number that is {wanted}, by default {default}")
    return value if wants_bool else float(value)
