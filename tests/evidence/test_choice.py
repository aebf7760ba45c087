"""The rule for the default, on made-up results whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedding_expansion.errors import InvalidInput
from embedding_expansion.evidence.choice import choose, is_close
from embedding_expansion.evidence.grid import CANDIDATES, PLAIN, TRIALS, regimes
from embedding_expansion.evidence.results import Record, add, read
from embedding_expansion.retrieval.comparison import Difference

OVER = [regime for regime in regimes().values() if regime.phase == "choice" and regime.whole]
ARMS = (PLAIN, *CANDIDATES)


def made_up(gains: dict[str, float], at: dict[tuple[str, str, str], float] | None = None) -> list[Record]:
    """Tuned runs whose held-out measures are above those of the plain loss by the gain of their arm.

    Args:
        gains: the gain of each arm, in points.
        at: other gains, by regime, loss and arm.
    """
    records = []
    for regime in OVER:
        for loss in regime.whole:
            for arm in ARMS:
                group = f"{regime.name}/{loss}/{arm}"
                gain = (at or {}).get((regime.name, loss, arm), gains.get(arm, 0.0)) / 100
                for number in range(TRIALS):  # the second trial is the best one, so that "tuned" is a run of its own
                    value = 0.5 if number == 1 else 0.4
                    records.append({"key": f"{group}/trial/{number}", "values": {}, "held_out": [[300, value, value]]})
                for seed in range(1, regime.seeds + 1):
                    value = 0.5 + seed / 100 + (gain + seed / 1e5 if arm != PLAIN else 0)
                    held_out = [[0, 0.1, 0.1], [300, value, value]]
                    records.append({"key": f"{group}/tuned/{seed}", "values": {}, "held_out": held_out})
    return records


def chosen(folder: Path, records: list[Record]) -> str:
    add(folder, records)
    choose(folder)
    default: str = read(folder).choice["default"]
    return default


def test_the_best_form_that_passes_everywhere_becomes_the_default(tmp_path: Path) -> None:
    gains = {"balanced": 1.0, "balanced_negative": 2.0, "balanced_n0": 0.5, "balanced_sphere": 1.5}
    assert chosen(tmp_path, made_up(gains)) == "balanced_negative"
    assert read(tmp_path).chosen == ("balanced_negative", "balanced_sphere")


def test_one_bad_cell_keeps_a_form_from_passing(tmp_path: Path) -> None:
    bad = {("cub-head", "triplet", "balanced_negative"): -2.0}
    assert chosen(tmp_path, made_up({"balanced": 1.0, "balanced_negative": 5.0}, bad)) == "balanced"
    worst = {each["arm"]: each for each in read(tmp_path).choice["candidates"]}["balanced_negative"]
    assert worst["failed"] == ["cub-head/triplet"]
    assert "balanced_negative" in read(tmp_path).chosen  # it is confirmed all the same


def test_a_form_that_is_better_nowhere_does_not_pass(tmp_path: Path) -> None:
    assert chosen(tmp_path, made_up(dict.fromkeys(ARMS, -0.3))) == PLAIN


def test_a_form_without_balance_can_become_the_default_and_is_then_confirmed(tmp_path: Path) -> None:
    gains = dict.fromkeys(CANDIDATES, -5.0) | {"selective": 3.0, "balanced": -4.0, "balanced_n0": -4.5}
    assert chosen(tmp_path, made_up(gains)) == "selective"
    assert read(tmp_path).chosen == ("selective", "balanced", "balanced_n0")


def test_the_choice_is_made_once(tmp_path: Path) -> None:
    chosen(tmp_path, made_up({"balanced": 1.0}))
    with pytest.raises(InvalidInput, match="the choice was made on"):
        choose(tmp_path)


def test_the_choice_waits_for_every_run(tmp_path: Path) -> None:
    whole = made_up({"balanced": 1.0})
    add(tmp_path, [record for record in whole if record["key"] != "cub-head/n_pair/balanced/tuned/10"])
    with pytest.raises(InvalidInput, match="cub-head has 9 of 10 runs of balanced with n_pair"):
        choose(tmp_path)
    assert not read(tmp_path).choice


@pytest.mark.parametrize(
    ("mean", "low", "high", "close"),
    [
        (-0.5, -1.0, 0.1, True),
        (-0.4, -0.5, -0.3, True),
        (-0.5, -0.6, -0.4, False),
        (-1.4, -3.0, 0.0, True),
        (-1.5, -4.0, 2.0, False),
    ],
)
def test_as_good_as_plain_has_two_limits(mean: float, low: float, high: float, close: bool) -> None:
    assert is_close(Difference(mean, low, high, 0.5, 5)) is close
