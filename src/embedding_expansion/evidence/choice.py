"""Chooses the default form, and the balanced forms to confirm, on held-out training classes; done once, on record."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.errors import InvalidInput
from embedding_expansion.evidence.differences import difference, records_of
from embedding_expansion.evidence.grid import BALANCED, CANDIDATES, PLAIN, Regime, regimes
from embedding_expansion.evidence.results import Results, extended
from embedding_expansion.retrieval.comparison import Difference
from embedding_expansion.training.environment import commit

_MEASURES = ("recall_at_1", "map_at_r")
#: A form is at least as good as the plain loss if its mean difference is above the first number, or above the second
#: and its interval holds 0; in points.
CLOSE, UNCERTAIN = -0.5, -1.5
#: How many balanced forms are run in the regimes that confirm the choice.
CONFIRMED = 2


@dataclass(frozen=True)
class Candidate:
    """A form on the regimes of the choice.

    Attributes:
        arm: the form.
        mean: the mean difference over all cells and both measures, in points.
        worst: the smallest mean difference of a cell.
        passes: whether it is at least as good as the plain loss in every cell, and better in one.
        cells: the number of cells, of a regime and a loss.
        failed: the cells in which it is not at least as good.
    """

    arm: str
    mean: float
    worst: float
    passes: bool
    cells: int
    failed: list[str]


def is_close(found: Difference) -> bool:
    """Whether a difference counts as at least as good as the plain loss."""
    return found.mean > CLOSE or (found.mean > UNCERTAIN and found.low <= 0 <= found.high)


def candidate(results: Results, arm: str, over: list[Regime]) -> Candidate:
    """Compares a form with the plain loss on held-out classes, tuned, in all regimes and losses that run every arm.

    Raises:
        InvalidInput: a seed of a cell is missing.
    """
    means, failed, is_better, cells = [], [], False, 0
    for regime in over:
        for loss in regime.whole:
            plain, own = (records_of(results, regime, loss, each, "tuned") for each in (PLAIN, arm))
            if min(len(plain), len(own)) < regime.seeds:
                raise InvalidInput(
                    f"{regime.name} has {len(own)} of {regime.seeds} runs of {arm} with {loss}, and {len(plain)} of "
                    "the plain loss; run embex reproduce evidence first"
                )
            both = [difference(plain, own, measure, "held_out") for measure in _MEASURES]
            known = [found for found in both if found is not None]
            means += [found.mean for found in known]
            cells += 1
            if not all(map(is_close, known)):
                failed.append(f"{regime.name}/{loss}")
            is_better |= all(found.low > 0 for found in known)
    return Candidate(arm, sum(means) / len(means), min(means), not failed and is_better, cells, failed)


def choose(folder: Path) -> str:
    """Makes the choice and writes it into the results.

    The default is the candidate that passes with the highest mean, or the plain loss. The balanced forms with the
    highest means are confirmed.

    Raises:
        InvalidInput: runs are missing, or the choice has been made.
    """
    over = [regime for regime in regimes().values() if regime.phase == "choice"]
    with extended(folder) as results:
        if results.choice:
            raise InvalidInput(f"the choice was made on {results.choice['date']}: {results.choice['default']}")
        found = [candidate(results, arm, over) for arm in CANDIDATES]
        results.choice = _decided(found) | {"regimes": [regime.name for regime in over]}
    balanced = ", ".join(results.choice["balanced"])
    return f"default: {results.choice['default']}; to be confirmed: {balanced}"


def _decided(found: list[Candidate]) -> dict[str, Any]:
    by_mean = sorted(found, key=lambda each: -each.mean)
    passing = [each.arm for each in by_mean if each.passes]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "default": passing[0] if passing else PLAIN,
        "balanced": [each.arm for each in by_mean if each.arm in BALANCED][:CONFIRMED],
        "candidates": [dataclasses.asdict(each) for each in by_mean],
    }
