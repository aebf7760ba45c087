"""Which steps of post-processing are taken, with their numbers. Nothing heavy is imported: it is a command line too."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from embedding_expansion.checks import as_limit, as_number
from embedding_expansion.errors import InvalidInput


@dataclass(frozen=True)
class Steps:
    """The steps, in the order in which they are taken; each is named by its count, None for not at all.

    Raises:
        InvalidInput: a number out of its range, a parameter of a step that is not taken, or both of the two last steps.

    Example:
        >>> print(Steps(qe=5, dba=10))
        dba 10, qe 5 (alpha 3)
    """

    whiten: Annotated[
        int | Literal["all"] | None, "PCA whitening to so many dimensions, or all; fitted on the training classes"
    ] = None
    shrinkage: Annotated[float | None, "of whiten: 0 whitens in full, 1 only turns and cuts; default 0"] = None
    dba: Annotated[int | None, "database augmentation by so many neighbours"] = None
    qe: Annotated[int | None, "query expansion by so many neighbours"] = None
    alpha: Annotated[float | None, "of dba and qe: the exponent of the cosine, 0 for a plain mean; default 3"] = None
    reciprocal: Annotated[int | None, "k-reciprocal re-ranking, with k1 of so many (the paper: 20)"] = None
    k2: Annotated[int | None, "of reciprocal: points that sets of neighbours are averaged over; default 6"] = None
    distance_weight: Annotated[float | None, "of reciprocal: weight of the distance itself; default 0.3"] = None
    diffusion: Annotated[int | None, "diffusion over a graph of so many neighbours (the paper: 50)"] = None

    def __post_init__(self) -> None:
        """Refuses what no list can be made by."""
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
                    f"rerank.{name} is {getattr(self, name)}, but says something of {steps} only; pass that as well, "
                    "or leave it out"
                )
        if self.reciprocal is not None and self.diffusion is not None:
            raise InvalidInput("rerank.reciprocal and rerank.diffusion each make the final list; pass one of them")

    def __bool__(self) -> bool:
        """Whether any step is taken."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def __str__(self) -> str:
        """The steps and their parameters in words."""
        last: dict[str, str] = {}  # a parameter of two steps is said after the second
        for name, of in _PARAMETERS.items():
            taken = [step for step in of if getattr(self, step) is not None]
            if taken:
                last[taken[-1]] = ", ".join(filter(None, (last.get(taken[-1]), f"{name} {self.value(name):g}")))
        said = []
        for step in STEPS:
            if getattr(self, step) is not None:
                more = f" ({last[step]})" if step in last else ""
                said.append(f"{step} {getattr(self, step)}{more}")
        return ", ".join(said) or "none"

    def value(self, name: str) -> float:
        """A parameter as given, or its default."""
        given: float | None = getattr(self, name)
        return float(DEFAULTS[name] if given is None else given)


#: In the order in which they are taken.
STEPS = ("whiten", "dba", "qe", "reciprocal", "diffusion")
#: What a parameter is where it is left out.
DEFAULTS: dict[str, float] = {"shrinkage": 0.0, "alpha": 3.0, "k2": 6, "distance_weight": 0.3}
_PARAMETERS = {
    "shrinkage": ("whiten",),
    "alpha": ("dba", "qe"),
    "k2": ("reciprocal",),
    "distance_weight": ("reciprocal",),
}
