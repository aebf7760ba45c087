"""The figures show what the tables say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from embedding_expansion.evidence.differences import MEASURES, ComparedArm
from embedding_expansion.evidence.grid import TRIALS, Regime
from embedding_expansion.evidence.plots import courses, forest, write_plots
from embedding_expansion.evidence.results import Results
from embedding_expansion.retrieval.comparison import Difference

REGIME = Regime("small", "glyphs", "a <small> one", {}, 2, "choice", losses=("triplet", "n_pair"), whole=("triplet",))
SVG = "{http://www.w3.org/2000/svg}"


def row(arm: str, mean: float, low: float, high: float) -> ComparedArm:
    """A row whose differences are all the same."""
    found = Difference(mean, low, high, 0.01, 5)
    return ComparedArm(
        "small", "triplet", arm, "tuned", 5, {}, {}, dict.fromkeys(MEASURES, found), 0.01, (low, high), 1.0, 0, 0
    )


def circles(drawing: str) -> list[tuple[float, str]]:
    """The position across and the tooltip of each dot."""
    found = ElementTree.fromstring(drawing).iter(f"{SVG}circle")
    return [(float(each.attrib["cx"]), each.findtext(f"{SVG}title") or "") for each in found]


def test_dots_lie_left_and_right_of_the_line_of_no_difference() -> None:
    drawn = circles(forest(REGIME, [row("paper", -3.0, -4.0, -2.0), row("balanced", 3.0, 2.5, 3.5)]))
    assert len(drawn) == 4  # two arms in two measures
    middle = (drawn[0][0] + drawn[1][0]) / 2
    lines = ElementTree.fromstring(forest(REGIME, [row("n0", 0.0, -1.0, 1.0)])).iter(f"{SVG}line")
    zero = next(float(each.attrib["x1"]) for each in lines if each.attrib["x1"] == each.attrib["x2"])
    assert drawn[0][0] < zero < drawn[1][0]
    assert middle == pytest.approx(zero, abs=0.1)  # as far to the left as to the right
    assert drawn[0][1] == "triplet, paper: -3.0 (-4.0 to -2.0)"


def test_one_seed_has_an_interval_without_end_and_is_still_drawn() -> None:
    drawing = forest(REGIME, [row("paper", 1.0, float("-inf"), float("inf"))])
    numbers = re.findall(r'(?:x1|x2|cx)="([^"]+)"', drawing)
    assert all(0 <= float(number) <= 1_000 for number in numbers)


def test_nothing_to_show_is_no_figure(tmp_path: Path) -> None:
    assert forest(REGIME, []) == ""
    assert courses(REGIME, Results()) == ""
    write_plots(tmp_path, Results(), [REGIME])
    assert not list(tmp_path.iterdir())


def test_the_course_of_the_balance_is_the_mean_over_the_seeds(tmp_path: Path) -> None:
    runs = {}
    for number in range(TRIALS):
        key = f"small/triplet/balanced/trial/{number}"
        runs[key] = {"key": key, "values": {}, "held_out": [[1, 0.5 + (number == 1) / 10, 0.5]]}
    for seed, share in ((1, [0.0, 1.0]), (2, [0.5, 1.0])):
        key = f"small/triplet/balanced/tuned/{seed}"
        runs[key] = {"key": key, "values": {}, "held_out": [], "share": share, "diverged": "x", "seconds": 1.0}
    write_plots(tmp_path, Results(runs), [REGIME])
    drawing = (tmp_path / "balance-small.svg").read_text()
    (line,) = ElementTree.fromstring(drawing).iter(f"{SVG}polyline")
    (_, first), (_, last) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    frame = [float(each.attrib["y1"]) for each in ElementTree.fromstring(drawing).iter(f"{SVG}line")]
    high = max(frame) - last  # from 0 to 1
    assert (max(frame) - first) / high == pytest.approx(0.25, abs=0.01)
    assert "a &lt;small&gt; one" in drawing
