"""The bars of the default, and further seeds where it is too uncertain, on made-up results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from embedding_expansion.evidence.bars import checks, confirmed
from embedding_expansion.evidence.grid import PLAIN, TRIALS, Cell, Regime
from embedding_expansion.evidence.results import Record, Results
from embedding_expansion.evidence.tables import write_tables
from embedding_expansion.evidence.work import Part, left, planned

REGIME = Regime(
    "glyphs",
    "glyphs",
    "a small one",
    {},
    4,
    "choice",
    losses=("triplet", "contrastive"),
    whole=("triplet", "contrastive"),
    settings=("default", "fast"),
)
CHOICE = {"default": "balanced", "balanced": ["balanced"], "date": "2026-01-01"}
SEEDS = {"tuned": 4, "default": 4, "fast": 3}


def made_up(gains: Mapping[tuple[str, str], float], spread: float = 0.1, seeds: int | None = None) -> Results:
    """Results of the plain loss and the default, which gains so many points by loss and setting."""
    runs: dict[str, Record] = {}
    for loss in REGIME.losses:
        for arm in (PLAIN, "balanced"):
            for number in range(TRIALS):
                key = f"glyphs/{loss}/{arm}/trial/{number}"
                value = 0.5 + (number == 3) / 10
                runs[key] = {"key": key, "values": {}, "held_out": [[300, value, value]]}
            for setting, count in SEEDS.items():
                for seed in range(1, 1 + (seeds or count)):
                    gain = gains.get((loss, setting), 0.0) if arm == "balanced" else 0.0
                    noise = spread * (-1) ** seed if arm == "balanced" else 0.0
                    value = (60 + seed + gain + noise) / 100
                    key = f"glyphs/{loss}/{arm}/{setting}/{seed}"
                    test = dict.fromkeys(("recall_at_1", "map_at_r", "nmi", "f1"), value)
                    runs[key] = {"key": key, "values": {}, "held_out": [], "test": test, "seconds": 1.0}
                    runs[key]["by_class"] = {"recall_at_1": [500, 600]}
    return Results(runs, CHOICE)


def failing(results: Results) -> set[tuple[str, str, str]]:
    found = [each for each in checks(results, [REGIME], "balanced") if each.holds is False]
    return {(each.bar, each.loss, each.setting) for each in found}


def test_all_bars_hold_for_a_form_that_gains_enough_everywhere() -> None:
    results = made_up({("contrastive", "default"): 3.5})
    assert failing(results) == set()
    assert confirmed(list(checks(results, [REGIME], "balanced"))) is True


def test_each_bar_fails_just_below_its_limit() -> None:
    gains = {
        ("triplet", "tuned"): -0.6,
        ("triplet", "default"): -3.5,
        ("triplet", "fast"): -5.5,
        ("contrastive", "default"): 2.5,
    }
    results = made_up(gains)
    assert failing(results) == {
        ("as good as plain, tuned", "triplet", "tuned"),
        ("glyphs as given: at least -3", "triplet", "default"),
        ("no cell loses more than 5", "triplet", "fast"),
        ("glyphs as given: at least +3", "contrastive", "default"),
    }
    assert confirmed(list(checks(results, [REGIME], "balanced"))) is False


def test_a_bar_without_runs_neither_holds_nor_fails() -> None:
    found = list(checks(Results(choice=CHOICE), [REGIME], "balanced"))
    assert found
    assert {each.holds for each in found} == {None}
    assert confirmed(found) is None


def test_the_tables_show_the_bars(tmp_path: Path) -> None:
    write_tables(tmp_path, made_up({("triplet", "fast"): -9.0}), [REGIME])
    text = (tmp_path / "tables.md").read_text()
    assert "## The bars of the default, `balanced`" in text
    line = "| no cell loses more than 5 | `glyphs` | `triplet` | default parameters, ten times the learning rate | -9"
    assert any(row.startswith(line) and row.endswith("| **no** |") for row in text.splitlines())


def further(results: Results) -> set[Cell]:
    first = set(planned(REGIME, Results(choice=CHOICE)))
    return {cell for cell in planned(REGIME, results) if cell not in first}


def test_seeds_are_doubled_where_the_interval_is_wide() -> None:
    assert further(made_up({})) == set()
    doubled = further(made_up({}, spread=3.0))
    assert {(cell.setting, cell.arm) for cell in doubled} == {
        (setting, arm) for setting in ("tuned", "default") for arm in (PLAIN, "balanced")
    }
    assert {cell.seed for cell in doubled} == {5, 6, 7, 8}


def test_seeds_are_doubled_once_and_whatever_the_further_ones_show() -> None:
    wide = further(made_up({}, spread=3.0))
    assert further(made_up({}, spread=3.0, seeds=8)) == wide


def test_the_further_seeds_are_what_is_left_to_run() -> None:
    results = made_up({}, spread=3.0)
    remaining = {cell for _, cell in left([REGIME], results, Part(1, 1))}
    assert further(results) <= remaining


@pytest.mark.parametrize("default", [PLAIN, "balanced"])
def test_nothing_is_doubled_for_the_plain_loss(default: str) -> None:
    results = made_up({}, spread=3.0)
    results.choice = CHOICE | {"default": default}
    assert bool(further(results)) is (default != PLAIN)
