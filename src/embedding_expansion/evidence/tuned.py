"""Which trials tune a run, and under which setting the tuned runs of an arm stand."""

from __future__ import annotations

from embedding_expansion.evidence.grid import TRIALS, Cell, Regime, has_untuned
from embedding_expansion.evidence.results import Results


def tuning_group(cell: Cell, regime: Regime) -> str:
    """The group whose trials tune a run: its own, or the same in another regime."""
    return f"{regime.tuned_in or regime.name}/{cell.loss}/{cell.arm}"


def tuned_setting(cell: Cell, regime: Regime, results: Results) -> str:
    """Under which setting the tuned runs of an arm stand: "default" if no trial was better than the given values."""
    best = results.best_trial(tuning_group(cell, regime), TRIALS)
    has_default = "default" in regime.settings and has_untuned(cell.arm, results.chosen)
    return "default" if best is not None and best["key"].endswith("/trial/0") and has_default else "tuned"


def is_same_as_default(cell: Cell, regime: Regime, results: Results) -> bool:
    """Whether a tuned run has the given values, and is another run of the grid."""
    return cell.setting == "tuned" and tuned_setting(cell, regime, results) == "default"
