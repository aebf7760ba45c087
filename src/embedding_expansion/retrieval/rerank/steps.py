"""The steps of post-processing with their parameters. Imports nothing heavy: they are options of the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from embedding_expansion.checks import as_limit, as_number
from embedding_expansion.errors import InvalidInput


@dataclass(frozen=True)
class Steps:
    """The steps, in the order in which they are applied, each with its main number; None skips a step.

    Raises:
        InvalidInput: a number out of its range, a parameter of a step that is skipped, or both of the last two steps.

    Example:
        >>> print(Steps(qe=5, dba=10))
        dba 10, qe 5 (alpha 3)
    """

    whiten: Annotated[
        int | Literal["all"] | None,
        "PCA whitening, fitted on the training classes: the number of dimensions to keep, or all",
    ] = None
    shrinkage: Annotated[float | None, "for whiten: 0 whitens fully, 1 is PCA without whitening; default 0"] = None
    dba: Annotated[int | None, "database augmentation: the number of neighbours"] = None
    qe: Annotated[int | None, "query expansion: the number of neighbours"] = None
    alpha: Annotated[float | None, "for dba and qe: the exponent of the cosine, 0 for a plain mean; default 3"] = None
    reciprocal: Annotated[int | None, "k-reciprocal re-ranking: k1 (20 in the paper)"] = None
    k2: Annotated[int | None, "for reciprocal: how many points to average sets of neighbours over; default 6"] = None
    distance_weight: Annotated[float | None, "for reciprocal: weight of the original distance; default 0.3"] = None
    diffusion: Annotated[int | None, "diffusion: neighbours of an image in the graph (50 in the paper)"] = None

    def __post_init__(self) -> None:
        """Checks the numbers and their combination."""
        for name in ("whiten", "dba", "qe", "reciprocal", "k2", "diffusion"):
            value = getattr(self, name)
            if value != "all":
                as_limit(value, f"rerank.{name}")
        for name, high in (("shrinkage", 1.0), ("alpha", math.inf), ("distance_weight", 1.0)):
            value = getattr(self, name)
            if value is not None:
                as_number(value, f"rerank.{name}", 0, high)
        for name, of in _PARAMETERS.items():
            if getattr(self, name) is not None and all(getattr(self, step) is None for step in of):
                steps = " or ".join(f"rerank.{step}" for step in of)
                raise InvalidInput(
                    f"rerank.{name} is {getattr(self, name)}, but only has a meaning for {steps}; pass that as well, "
                    f"or leave rerank.{name} out"
                )
        if self.reciprocal is not None and self.diffusion is not None:
            raise InvalidInput("rerank.reciprocal and rerank.diffusion both make the final list; pass one of them")

    def __bool__(self) -> bool:
        """Whether any step is applied."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def __str__(self) -> str:
        """The steps and their parameters in words."""
        last: dict[str, str] = {}  # a parameter of two steps is listed after the second
        for name, of in _PARAMETERS.items():
            taken = [step for step in of if getattr(self, step) is not None]
            if taken:
                last[taken[-1]] = ", ".join(filter(None, (last.get(taken[-1]), f"{name} {self.value(name):g}")))
        parts = []
        for step in STEPS:
            if getattr(self, step) is not None:
                more = f" ({last[step]})" if step in last else ""
                parts.append(f"{step} {getattr(self, step)}{more}")
        return ", ".join(parts) or "none"

    def value(self, name: str) -> float:
        """The given value of a parameter, or its default."""
        given: float | None = getattr(self, name)
        return float(DEFAULTS[name] if given is None else given)


#: The names of the steps in the order in which they are applied.
STEPS = ("whiten", "dba", "qe", "reciprocal", "diffusion")
#: The values of parameters that are not given.
DEFAULTS: dict[str, float] = {"shrinkage": 0.0, "alpha": 3.0, "k2": 6, "distance_weight": 0.3}
_PARAMETERS = {
    "shrinkage": ("whiten",),
    "alpha": ("dba", "qe"),
    "k2": ("reciprocal",),
    "distance_weight": ("reciprocal",),
}
