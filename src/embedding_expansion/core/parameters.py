"""The parameters of a loss function and the options of its module: bound by position or name, and checked once."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from embedding_expansion.checks import as_limit, as_whole, as_wholes, check_name, validates
from embedding_expansion.core.adapters import adapter_of
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName

Reduction: TypeAlias = Literal["mean", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "none")


@validates
def check_options(reduction: str, ignore_index: object, miner: object, chunk: object) -> None:
    """Raise an error where an option of a module cannot be used, or two not together."""
    check_name("reduction", reduction, REDUCTIONS)
    as_limit(ignore_index, "ignore_index", least=None)
    if miner is not None and (isinstance(miner, type) or not callable(miner)):
        raise InvalidType(f"miner is {miner!r}; pass an instance of a miner, a function of Pairs that gives Pairs")
    if chunk is None:
        return
    if getattr(miner, "generator", None) is not None:
        raise InvalidInput(
            "chunk computes a block again, for which the miner's generator would draw anew; leave it out"
        )
    if adapter_of(miner) is not None:
        raise InvalidInput(f"{type(miner).__name__} mines whole batches, but chunk is {chunk!r}; leave one of them out")


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters after the table; what is keyword-only (a batch's statistic) is none that a user sets."""
    after = list(inspect.signature(function).parameters.values())[1:]
    return {parameter.name: parameter for parameter in after if parameter.kind is not parameter.KEYWORD_ONLY}


def bind(
    owner: type, function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], others: Iterable[str]
) -> dict[str, Any]:
    """All parameters of a loss function, as given or by default.

    Args:
        owner: the module's class, for the sentences; its `positive` names the parameters that must be above 0.
        function: the loss.
        given: values by position.
        named: values by name.
        others: options of the module, which a mistyped name may have meant.

    Raises:
        UnknownName: no parameter has that name; says the nearest.
        InvalidInput, InvalidType: a value is given twice, of the wrong kind, not finite, or not above 0.
    """
    known = parameters_of(function)
    if len(given) > len(known):
        raise InvalidType(f"{owner.__name__} takes at most {len(known)} parameters, {len(given)} were given")
    values = dict(zip(known, given, strict=False))
    for name, value in named.items():
        if name not in known:
            raise UnknownName(f"parameter of {owner.__name__}", name, [*known, *others])
        if name in values:
            raise InvalidType(f"{name} of {owner.__name__} is given twice, {values[name]!r} and {value!r}")
        values[name] = value
    good = {name: checked(owner, function, known[name], value) for name, value in values.items()}
    return {name: parameter.default for name, parameter in known.items()} | good


def checked(owner: type, function: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> Any:
    """The value as its parameter takes it: of the default's kind, finite, and above 0 where it must be.

    Raises:
        UnknownName, InvalidInput, InvalidType: it cannot be used; says what can.
    """
    name, default = parameter.name, parameter.default
    what = f"{name} of {owner.__name__}"
    if isinstance(default, str):
        check_name(what, value, typing.get_args(typing.get_type_hints(function)[name]))
        return value
    if isinstance(default, tuple):
        entries = as_wholes(value, what, least=1)
        if not entries:
            raise InvalidInput(f"{what} is empty; pass whole numbers of at least 1, by default {default}")
        return entries
    is_positive = name in getattr(owner, "positive", ())
    if isinstance(default, int) and not isinstance(default, bool):
        return as_whole(value, what, least=1 if is_positive else None)
    if hasattr(value, "dtype") and hasattr(value, "tolist") and isinstance(value.tolist(), (bool, int, float)):
        value = value.tolist()  # a scalar of NumPy; and of torch, without a gradient
    wants_bool = isinstance(default, bool)
    if isinstance(value, bool) is not wants_bool or not isinstance(value, (bool, int, float)):
        wanted = "True or False" if wants_bool else "a number"
        raise InvalidType(f"{what} is {value!r}; pass {wanted}, by default {default}")
    if not math.isfinite(value) or (is_positive and value <= 0):
        wanted = "above 0" if is_positive else "finite"
        raise InvalidInput(f"{what} is {value}; pass a number that is {wanted}, by default {default}")
    return value if wants_bool else float(value)
