"""The grid: every run is one that `embex train` would accept, and all of it fits the promised time."""

from __future__ import annotations

import pytest

from embedding_expansion.evidence.grid import (
    ARMS,
    BALANCED,
    CANDIDATES,
    PLAIN,
    TRIALS,
    Cell,
    Regime,
    arms,
    cells,
    regimes,
)
from embedding_expansion.evidence.results import Results
from embedding_expansion.evidence.settings import configuration, described, trial_values, values_of
from embedding_expansion.evidence.work import expected_seconds
from embedding_expansion.training.factory import make_loss

CHOSEN = ("balanced", "balanced_negative")
REGIMES = regimes()


@pytest.mark.parametrize("regime", REGIMES.values(), ids=REGIMES.keys())
def test_every_arm_of_a_regime_makes_a_loss(regime: Regime) -> None:
    made = 0
    for loss in regime.losses:
        for arm in arms(regime, loss, CHOSEN):
            cell = Cell(regime.name, loss, arm, "default", 1)
            make_loss(configuration(cell, regime, values_of(cell, regime, {}), {}), 20)
            made += 1
    assert made == len({cell.group for cell in cells(regime, CHOSEN)})


def test_runs_have_names_of_their_own() -> None:
    keys = [cell.key for regime in REGIMES.values() for cell in cells(regime, CHOSEN)]
    assert len(set(keys)) == len(keys) > 5_000


def test_the_whole_grid_fits_20_hours_of_two_cores() -> None:
    seconds = sum(len(list(cells(regime, CHOSEN))) * expected_seconds(regime, Results()) for regime in REGIMES.values())
    assert 0 < seconds <= 20 * 2 * 3600


def test_nothing_is_confirmed_before_the_choice() -> None:
    planned = {regime.name for regime in REGIMES.values() if list(cells(regime, ()))}
    assert planned == {regime.name for regime in REGIMES.values() if regime.phase == "choice" and regime.whole}
    losses = {cell.loss for cell in cells(REGIMES["glyphs"], ())}
    assert losses == set(REGIMES["glyphs"].whole)


def test_the_trials_of_all_arms_have_the_same_values() -> None:
    regime = REGIMES["glyphs"]
    for arm in ARMS:
        cell = Cell("glyphs", "multi_similarity", arm, "trial", 3)
        assert values_of(cell, regime, {}) == trial_values(regime, "multi_similarity", 3)
    assert trial_values(regime, "multi_similarity", 0) == {"optimizer.lr": 1e-3, "loss.beta": 50.0}


def test_trials_lie_apart_within_their_bounds() -> None:
    tried = [trial_values(REGIMES["glyphs"], "triplet", number) for number in range(TRIALS)]
    rates, margins = ([each[name] for each in tried] for name in ("optimizer.lr", "loss.margin"))
    assert 1e-4 <= min(rates) < 3e-4
    assert 3e-3 < max(rates) <= 1e-2
    assert 0.2 / 3 <= min(margins) < 0.1
    assert 0.4 < max(margins) <= 0.6


def test_a_setting_says_where_the_values_come_from() -> None:
    regime, best = REGIMES["glyphs"], {"optimizer.lr": 0.5, "loss.margin": 0.7}
    found = {
        setting: values_of(Cell("glyphs", "triplet", PLAIN, setting, 2), regime, best)
        for setting in ("tuned", "default", "fast")
    }
    assert found["tuned"] == best
    assert found["default"] == {"optimizer.lr": 1e-3, "loss.margin": 0.2}
    assert found["fast"] == {"optimizer.lr": pytest.approx(1e-2), "loss.margin": 0.2}


def test_pairs_of_arms_share_seed_and_batches() -> None:
    regime = REGIMES["cars-head"]
    plain, paper = (
        configuration(Cell("cars-head", "triplet", arm, "default", 4), regime, {"optimizer.lr": 1e-3}, {})
        for arm in (PLAIN, "paper")
    )
    assert plain.seed == paper.seed == 4
    assert plain.sampler == paper.sampler
    assert configuration(Cell("cars-head", "triplet", PLAIN, "trial", 4), regime, {}, {}).seed == 0


def test_miners_that_change_nothing_are_left_out() -> None:
    of_losses = {loss: set(arms(REGIMES["glyphs"], loss, ())) for loss in ("triplet", "hphn_triplet", "n_pair")}
    assert of_losses["triplet"] == set(ARMS)
    assert of_losses["n_pair"] == set(ARMS) - {"semi_hard"}
    assert of_losses["hphn_triplet"] == set(ARMS) - {"semi_hard", "batch_hard", "ms_mining"}


def test_the_options_of_a_run_are_described_without_those_of_the_machine() -> None:
    cell = Cell("cars-head", "triplet", "balanced", "default", 4)
    given = configuration(cell, REGIMES["cars-head"], {"optimizer.lr": 0.5}, {"data.root": "/here"})
    found = described(given)
    assert found["expansion.form"] == "balanced"
    assert found["expansion.n"] == 2
    assert found["optimizer.lr"] == 0.5
    assert not [value for value in found.values() if value == "/here"]


def test_a_gpu_adds_losses_and_seeds_to_the_end_to_end_runs() -> None:
    on_gpu = regimes(has_cuda=True)
    more = {name for name in on_gpu if "finetune" in name}
    assert more > {name for name in REGIMES if "finetune" in name}
    assert all(on_gpu[name].seeds == 3 for name in more)


def test_the_forms_of_the_choice_are_arms() -> None:
    assert {PLAIN, *CANDIDATES, *BALANCED} <= set(ARMS)
