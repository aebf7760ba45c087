"""The forms of expansion by name, and the default that the constructor and the command line share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Scope: TypeAlias = Literal["class_pair", "anchor", "negative"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Balance: TypeAlias = Literal[False, True, "sphere"]
FormName: TypeAlias = Literal[
    "paper",
    "anchor",
    "balanced",
    "balanced_sphere",
    "negative",
    "balanced_negative",
    "selective",
    "samples",
    "none",
]


@dataclass(frozen=True)
class Form:
    """What a form of expansion does; the parameters are those of `EmbeddingExpansion`."""

    scope: Scope = "class_pair"
    balance: Balance = False
    selective: bool = False


#: The forms that mine the hardest pairs. "samples" adds the synthetic points to the batch without mining, and "none"
#: is the plain loss.
FORMS: dict[FormName, Form] = {
    "paper": Form(),
    "anchor": Form(scope="anchor"),
    "balanced": Form(balance=True),
    "balanced_sphere": Form(balance="sphere"),
    "negative": Form(scope="negative"),
    "balanced_negative": Form(scope="negative", balance=True),
    "selective": Form(selective=True),
}
DEFAULT_FORM: FormName = "paper"
DEFAULT: Form = FORMS[DEFAULT_FORM]
DEFAULT_N = 2
