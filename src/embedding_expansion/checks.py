"""Checks of the numbers and names that a user passes, the same in every part of the package.

Scalars of NumPy and torch are read without importing either. Every sentence says what was given and what to pass.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, TypeVar

from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName

F = TypeVar("F", bound=Callable[..., Any])
_LONGEST = 80  # characters of a value in a sentence


def validates(function: F) -> F:
    """Marks a function that checks its arguments itself.

    Where annotations are checked at run time (jaxtyping's import hook) such a function is left alone, so that the
    caller gets this package's errors and not the checker's.
    """
    function.__no_type_check__ = True  # type: ignore[attr-defined]
    return function


def whole_number(value: object) -> int | None:
    """The value as an int if it is a whole number, otherwise None.

    Whole numbers are the integers of Python, NumPy and torch, also as arrays and tensors without dimensions. Booleans
    and floats are not, even a float without a fraction such as 2.0.

    Example:
        >>> whole_number(2), whole_number(2.0), whole_number(True)
        (2, None, None)
    """
    plain = _plain(value)
    if isinstance(plain, bool) or _shape(plain):  # torch gives the number of a tensor with one entry
        return None
    try:
        return operator.index(plain)
    except (TypeError, RuntimeError):  # the latter of a tensor without values, on the meta device
        return None


def as_whole(
    value: object, name: str, *, least: int | None = None, most: int | None = None, optional: bool = False
) -> int:
    """Checks a whole number such as k, a size or a seed.

    Args:
        value: what was passed.
        name: of the argument.
        least: the smallest number allowed; None for no bound.
        most: the largest number allowed; None for no bound.
        optional: whether the sentence says that None can be passed as well; see `as_limit`.

    Raises:
        InvalidType: not a whole number (see `whole_number`).
        InvalidInput: a whole number out of its range.

    Example:
        >>> as_whole(10, "k", least=1)
        10
        >>> as_whole(2.0, "k", least=1)
        Traceback (most recent call last):
        embedding_expansion.errors.InvalidType: k is 2.0; pass a whole number of at least 1
    """
    number = whole_number(value)
    if number is not None and (least is None or number >= least) and (most is None or number <= most):
        return number
    kind = InvalidType if number is None else InvalidInput
    end = ", or None" if optional else ""
    raise kind(f"{name} is {shown(value)}; pass a whole number{_range(least, most)}{end}")


def as_limit(value: object, name: str, *, least: int = 1, most: int | None = None) -> int | None:
    """Checks a whole number that may be left out, such as the most rows in a block; None stays None.

    Raises:
        InvalidType: neither a whole number nor None.
        InvalidInput: a whole number out of its range, by default below 1.
    """
    return None if value is None else as_whole(value, name, least=least, most=most, optional=True)


def as_wholes(values: object, name: str, *, least: int | None = None) -> tuple[int, ...]:
    """Checks several whole numbers, such as the K of Recall@K.

    Raises:
        InvalidType: not a sequence, a text, or an entry that is not a whole number.
        InvalidInput: an entry below `least`.
    """
    wanted = f"pass whole numbers{_range(least, None)}, such as (1, 2, 4)"
    entries = None if isinstance(values, (str, bytes)) else _entries(values)
    if entries is None:
        raise InvalidType(f"{name} is {shown(values)}; {wanted}")
    numbers = [whole_number(entry) for entry in entries]
    for entry, number in zip(entries, numbers, strict=True):
        if number is None or (least is not None and number < least):
            kind = InvalidType if number is None else InvalidInput
            raise kind(f"{name} holds {shown(entry)}; {wanted}")
    return tuple(number for number in numbers if number is not None)


def as_number(
    value: object, name: str, least: int | float = -math.inf, most: int | float = math.inf, *, what: str = "number"
) -> float:
    """Checks a finite number, both ends of its range allowed.

    Args:
        value: what was passed: a number of Python, NumPy or torch.
        name: of the argument.
        least: the smallest number allowed.
        most: the largest number allowed.
        what: the noun of the sentence, such as "share" or "cosine".

    Raises:
        InvalidType: not a number; booleans are not.
        InvalidInput: NaN, infinite, or out of its range.
    """
    low, high = (None if math.isinf(bound) else bound for bound in (least, most))
    wanted = f"pass a {'finite ' if low is None or high is None else ''}{what}{_range(low, high)}"
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise InvalidType(f"{name} is {shown(value)}; {wanted}")
    try:
        number = float(plain)
    except OverflowError:
        number = math.inf
    if not (least <= number <= most and math.isfinite(number)):
        raise InvalidInput(f"{name} is {shown(value)}; {wanted}")
    return number


def as_share(value: object, name: str) -> float:
    """Checks a share from 0 to 1, such as a rate of errors."""
    return as_number(value, name, 0, 1, what="share")


def check_name(kind: str, given: object, known: Iterable[str]) -> None:
    """Checks that a name is one of those known.

    Args:
        kind: what it names, as a noun ("loss", "linkage").
        given: the name.
        known: the names that can be passed.

    Raises:
        UnknownName: it is not one of them; says the nearest.
    """
    names = tuple(known)
    if given not in names:
        raise UnknownName(kind, given, names)


def shown(value: object) -> str:
    """A value as part of a sentence: in one line and short, an array by its type and shape.

    Example:
        >>> shown([1, 2.0])
        '[1, 2.0]'
    """
    if shape := _shape(value):
        return f"a {type(value).__name__} of shape {shape}"
    text = " ".join(repr(_plain(value)).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _entries(values: Any) -> tuple[object, ...] | None:
    try:
        return tuple(values)
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    """Python's number where a scalar of NumPy or torch is passed, otherwise the value itself."""
    if not hasattr(value, "dtype") or _shape(value):
        return value
    try:
        return value.item()
    except (AttributeError, RuntimeError):  # the latter of a tensor without values, on the meta device
        return value


def _shape(value: object) -> tuple[int, ...]:
    """Of an array or a tensor; () where there is none."""
    shape = getattr(value, "shape", ())
    return tuple(shape) if isinstance(shape, tuple) else ()


def _range(least: int | float | None, most: int | float | None) -> str:
    low, high = _bound(least), _bound(most)
    if high is None:
        return "" if low is None else f" of at least {low}"
    return f" of at most {high}" if low is None else f" from {low} to {high}"


def _bound(bound: int | float | None) -> str | None:
    if bound is None:
        return None
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
