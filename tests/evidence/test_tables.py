"""The tables say what the results hold, and what is missing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.evidence.differences import rows
from embedding_expansion.evidence.grid import PLAIN, TRIALS, Regime
from embedding_expansion.evidence.results import Record, Results
from embedding_expansion.evidence.tables import write_tables

REGIME = Regime(
    "small", "glyphs", "a small one", {}, 4, "choice", losses=("triplet", "circle"), whole=("triplet", "circle")
)
OTHER = Regime("other", "glyphs", "one without runs", {}, 4, "choice")
GAIN = np.array([2.0, 3.0, 4.0, 3.0])


def _record(key: str, value: float, classes: list[int]) -> Record:
    test = dict.fromkeys(("recall_at_1", "map_at_r", "nmi", "f1"), value / 100)
    return {
        "key": key,
        "values": {"optimizer.lr": 0.01, "loss.margin": 0.3},
        "held_out": [[300, value / 100, value / 100]],
        "test": test,
        "by_class": {"recall_at_1": classes},
        "seconds": 2.0,
        "wall_seconds": 3.0,
    }


def _results() -> Results:
    """Triplet has the plain loss and the paper's form, whose best trial is not the first."""
    runs = {}
    for arm, gain in ((PLAIN, np.zeros(4)), ("paper", GAIN)):
        for number in range(TRIALS):
            key = f"small/triplet/{arm}/trial/{number}"
            runs[key] = _record(key, 60.0 + (number == 2), [600])
        for seed in range(1, 5):
            key = f"small/triplet/{arm}/tuned/{seed}"
            shift = 30 if arm == "paper" else 0
            runs[key] = _record(key, 50 + seed + gain[seed - 1], [500 + shift, 700 + shift])
    return Results(runs)


def test_a_row_has_the_difference_to_the_plain_loss() -> None:
    plain, paper = rows(_results(), REGIME, "tuned")
    assert (plain.arm, paper.arm) == (PLAIN, "paper")
    assert plain.means["recall_at_1"] == pytest.approx(52.5)
    found = paper.differences["map_at_r"]
    assert found is not None
    assert (found.mean, found.pairs) == (pytest.approx(3.0), 4)
    assert paper.classes == pytest.approx((3.0, 3.0))  # both classes gain 30 thousandths
    assert paper.corrected == pytest.approx(found.p)  # one comparison has nothing to correct for
    assert (paper.seeds, paper.seconds) == (4, 2.0)


def test_a_seed_that_diverged_counts_as_0() -> None:
    results = _results()
    key = "small/triplet/paper/tuned/1"
    results.runs[key] = {"key": key, "values": {}, "held_out": [], "diverged": "the loss is nan", "seconds": 0.1}
    _, paper = rows(results, REGIME, "tuned")
    assert paper.diverged == 1
    assert paper.means["recall_at_1"] == pytest.approx((0 + 55 + 57 + 57) / 4)


def test_the_tables_show_differences_and_empty_cells(tmp_path: Path) -> None:
    write_tables(tmp_path, _results(), [REGIME, OTHER])
    text = (tmp_path / "tables.md").read_text()
    assert "| `triplet` | 52.5 | **+3.0 ± 1.3** |" in text
    assert "| `circle` | – | – |" in text
    assert "## one without runs" not in text
    done = sum(1 for line in text.splitlines() if line.startswith("| `small` | a small one | 20 |"))
    assert done == 1
    with (tmp_path / "differences.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["arm"], first["recall_at_1_difference"]) == (PLAIN, "")
    assert (second["arm"], second["recall_at_1_difference"], second["lr"]) == ("paper", "3.00", "0.01")
    assert (second["classes_low"], second["classes_high"]) == ("3.00", "3.00")


def test_tables_of_nothing_say_so(tmp_path: Path) -> None:
    write_tables(tmp_path, Results(), [REGIME])
    assert "| `small` | a small one | 0 |" in (tmp_path / "tables.md").read_text()
