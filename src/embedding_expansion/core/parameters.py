"""The parameters of a loss function and the options of its module, checked once."""

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
    """The options that every loss takes; `PairLoss` says what they mean."""

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
    """All options, as given or by default.

    Args:
        owner: the module's class, for the sentences.
        given: options by name.
        parameters: those of the loss function, which a mistyped name may have meant.

    Raises:
        UnknownName: no option has that name; says the nearest.
        InvalidInput, InvalidType: an option cannot be used, or two cannot be used together.
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
        raise InvalidType(f"ignore_index is {ignored!r}; pass the label that takes no part, a whole number")
    if miner is not None and (isinstance(miner, type) or not callable(miner)):
        raise InvalidType(f"miner is {miner!r}; pass an instance of a miner, a function of Pairs that gives Pairs")
    if chunk is not None:
        options["chunk"] = as_whole(chunk, "chunk", least=1, optional=True)
        if getattr(miner, "generator", None) is not None:
            raise InvalidInput(
                "chunk computes a block again, for which the miner's generator would draw anew; leave it out"
            )
        if adapter_of(miner) is not None:
            raise InvalidInput(
                f"{type(miner).__name__} mines whole batches, but chunk is {chunk!r}; leave one of them out"
            )
    checked: Options = options
    return checked


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters after the table. A keyword-only one, such as a batch's statistic, is not for users."""
    after = list(inspect.signature(function).parameters.values())[1:]
    return {parameter.name: parameter for parameter in after if parameter.kind is not parameter.KEYWORD_ONLY}


@validates
def checked_parameters(owner: type, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a loss function, as given or by default.

    Args:
        owner: the module's class, for the sentences; its `positive` names the parameters that must be above 0.
        function: the loss.
        given: values by name.

    Raises:
        UnknownName: no parameter has that name; says the nearest.
        InvalidInput, InvalidType: a value is of the wrong kind, not finite, or not above 0.
    """
    known = parameters_of(function)
    for name in given:
        if name not in known:
            raise UnknownName(f"parameter of {owner.__name__}", name, [*known, *DEFAULTS])
    good = {name: checked(owner, function, known[name], value) for name, value in given.items()}
    return {name: parameter.default for name, parameter in known.items()} | good


def checked(owner: type, function: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> Any:
    """The value as its parameter takes it: of the default's kind, finite, and above 0 where it must be.

    Raises:
        UnknownName, InvalidInput, InvalidType: it cannot be used; says what can.
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
        value = value.tolist()  # a scalar of NumPy; and of torch, without a gradient
    wants_bool = isinstance(default, bool)
    if isinstance(value, bool) is not wants_bool or not isinstance(value, (bool, int, float)):
        wanted = "True or False" if wants_bool else "a number"
        raise InvalidType(f"{what} is {value!r}; pass {wanted}, by default {default}")
    if not math.isfinite(value) or (above and value <= 0):
        wanted = "above 0" if above else "finite"
        raise InvalidInput(f"{what} is {value}; pass a number that is {wanted}, by default {default}")
    return value if wants_bool else float(value)
