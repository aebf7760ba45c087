"""The arms of a study: the forms of expansion and the plain loss, as options of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.runs.options import TrainConfig

#: How each arm changes the section `expansion` of the options.
_CHANGES: dict[str, dict[str, Any]] = {
    "paper": {"scope": "class_pair"},
    "anchor": {"scope": "anchor"},
    "none": {"n": "none"},
}
#: The names of the arms; "none" is the plain loss.
ARMS: tuple[str, ...] = tuple(_CHANGES)


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
    """The configuration with the form of expansion of an arm; everything else stays.

    Raises:
        InvalidInput: the options contradict the arm.
    """
    expansion = dataclasses.replace(config.expansion, **_CHANGES[arm])
    return dataclasses.replace(config, expansion=expansion)
