"""The arms of a study: the forms of expansion and the plain loss, as options of a run."""

from __future__ import annotations

import dataclasses
import typing

from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.forms import FormName
from embedding_expansion.runs.options import TrainConfig

#: The names of the arms, those of `--expansion.form`; "none" is the plain loss.
ARMS: tuple[str, ...] = typing.get_args(FormName)


def check_arms(arms: list[str]) -> tuple[str, ...]:
    """Checks the names of arms.

    Raises:
        UnknownName: there is no arm of this name.
        InvalidInput: there are no arms, or one is given twice.
    """
    if not arms:
        raise InvalidInput(f"there are no arms; pass one or more of {', '.join(ARMS)}")
    for arm in arms:
        if arm not in ARMS:
            raise UnknownName("arm", arm, ARMS)
    if len(set(arms)) < len(arms):
        raise InvalidInput(f"the arms {', '.join(arms)} contain one twice; pass each arm once")
    return tuple(arms)


def with_arm(config: TrainConfig, arm: str) -> TrainConfig:
    """The configuration with the form of expansion of an arm; everything else but its scope and balance stays.

    Raises:
        InvalidInput: the options contradict the arm.
    """
    given = config.expansion
    expansion = dataclasses.replace(
        given,
        form=typing.cast(FormName, arm),
        n=None if given.n == "none" else given.n,
        scope=None,
        balance=None,
    )
    return dataclasses.replace(config, expansion=expansion)
