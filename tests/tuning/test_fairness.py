"""Every arm gets the same budget, the same space and the same start, and no trial reads a test class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedding_expansion.app.cli import main
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.errors import InvalidInput
from embedding_expansion.forms import FORMS
from embedding_expansion.runs.config import load
from embedding_expansion.runs.options import ExpansionConfig, SamplerConfig, TrainConfig
from embedding_expansion.training.cross_validation import best_step
from embedding_expansion.training.factory import BY_NAME, make_loss
from embedding_expansion.tuning import study as tuning_study
from embedding_expansion.tuning.arms import ARMS as ALL_ARMS
from embedding_expansion.tuning.arms import with_arm
from embedding_expansion.tuning.plan import make_plan
from embedding_expansion.tuning.space import Range, make_space
from embedding_expansion.tuning.study import STARTUP

from .conftest import ARMS, TRIALS, command, draw_images
from .study_files import curve, stored


def test_every_arm_gets_the_same_steps_and_the_same_first_trials(study: Path) -> None:
    results = stored(study)
    assert set(results) == {(arm, number) for arm in ARMS for number in range(TRIALS)}
    assert TRIALS <= STARTUP  # no trial has learnt from another one yet
    for number in range(TRIALS):
        (one,) = {(results[arm, number]["steps"], str(results[arm, number]["values"])) for arm in ARMS}
        if number == 0:
            given = {"optimizer.lr": 0.001, "loss.margin": 0.2, "sampler.images_per_class": 2}
            assert one == (4, str(given))
    assert len({str(results["none", number]["values"]) for number in range(TRIALS)}) == TRIALS


def test_the_runs_of_all_arms_differ_in_their_form_only(study: Path) -> None:
    for number in range(TRIALS):
        texts = [(study / "trials" / f"{arm}-{number:03d}" / "config.yaml").read_text() for arm in ARMS]
        options = [yaml.safe_load(text) for text in texts]
        forms = [str(given.pop("expansion")) for given in options]
        assert options[0] == options[1] == options[2]
        assert len(set(forms)) == len(ARMS)
        sampler = options[0]["sampler"]
        assert sampler["classes_per_batch"] * sampler["images_per_class"] == 8


def test_the_budgets_of_a_round_are_the_same_for_every_seed_and_come_in_another_order() -> None:
    config = TrainConfig(steps=100, sampler=SamplerConfig(classes_per_batch=4))
    orders = set()
    for seed in range(10):
        space = make_space(TrainConfig(**{**vars(config), "seed": seed}), ["steps"], 10, 10)
        assert space.steps_of(0) == 100
        for first in (1, 4):
            order = tuple(space.steps_of(number) for number in range(first, first + 3))
            assert sorted(order) == [50, 100, 200]
            orders.add(order)
    assert len(orders) > 1


def test_no_trial_has_read_a_test_class_or_trained_on_a_held_out_one(study: Path) -> None:
    for run in (study / "trials").iterdir():
        metrics = json.loads((run / "metrics.json").read_text())
        sides = json.loads((run / "fingerprint.json").read_text())["sides"]
        assert metrics["broken_images"] == []  # the files of the test classes are no images
        assert metrics["data"].endswith("held-out training classes")
        assert metrics["held_out_classes"] == sorted(sides["held_out"])
        assert set(sides["held_out"]) <= set(sides["train"])
        assert not set(sides["held_out"]) & set(sides["test"])
        assert not (run / "report.html").exists()


def test_the_value_is_that_of_the_best_step_on_the_held_out_classes(study: Path) -> None:
    for (arm, number), result in stored(study).items():
        measured = curve(study / "trials" / f"{arm}-{number:03d}")
        best = max(measured, key=lambda step: (measured[step]["recall_at_1"], measured[step]["map_at_r"], -step))
        assert result["step"] == best
        assert result["value"] == result["recall_at_1"] == measured[best]["recall_at_1"]
        assert result["map_at_r"] == measured[best]["map_at_r"]
        assert (result["steps"], result["trained"], result["spread"]) == (max(measured), max(measured), None)


def test_the_best_configuration_trains_on_all_training_classes(study: Path, tmp_path: Path) -> None:
    results = stored(study)
    for arm in ARMS:
        own = {number: results[arm, number] for number in range(TRIALS)}
        best = max(own, key=lambda number: (own[number]["value"], own[number]["map_at_r"], -number))
        config = load(study / "best" / f"{arm}.yaml")
        assert (config.steps, config.protocol) == (own[best]["step"], "last")
        assert config.optimizer.lr == own[best]["values"]["optimizer.lr"]
        assert config.loss["margin"] == own[best]["values"]["loss.margin"]
    draw_images(tmp_path / "whole", of_test_classes=False)
    draw_images(tmp_path / "whole", of_test_classes=True)
    given = ["--config", str(study / "best" / "paper.yaml"), "--data", str(tmp_path / "whole")]
    assert main(["train", *given, "--out", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["held_out_classes"] == []
    assert metrics["data"] == "whole"


@pytest.mark.parametrize("name", BY_NAME)
def test_the_space_of_every_loss_has_values_that_the_loss_takes(name: str) -> None:
    config = TrainConfig(loss={"name": name}, sampler=SamplerConfig(classes_per_batch=8))
    space = make_space(config, None, 20, 20)
    (parameter,) = [key for key in space.dimensions if key.startswith("loss.")] or [None]
    if parameter is None:
        assert name in ("fast_ap", "histogram", "intra_pair_variance")
        return
    values = space.dimensions[parameter]
    assert isinstance(values, Range)
    for value in (values.low, values.default, values.high):
        arm = "paper" if name in LOSSES and not BY_NAME[name].not_expandable else "none"
        make_loss(with_arm(space.apply(config, {parameter: value}, 0), arm), 20)


def test_arms_are_the_forms_of_expansion() -> None:
    assert {*FORMS, "none"} <= set(ALL_ARMS)
    for given in (TrainConfig(), TrainConfig(expansion=ExpansionConfig(n="none"))):
        assert {arm for arm in ALL_ARMS if with_arm(given, arm).expansion.is_plain} == {"none"}
        for arm, form in FORMS.items():
            assert with_arm(given, arm).expansion.search == form


@pytest.mark.parametrize("given", [{"scope": "negative"}, {"balance": True}, {"form": "balanced"}], ids=str)
def test_the_arms_decide_about_the_form(given: dict[str, Any]) -> None:
    config = TrainConfig(expansion=ExpansionConfig(**given))
    with pytest.raises(InvalidInput, match="the arms decide"):
        make_plan(config, ["paper"], 1)


def test_later_trials_learn_from_the_values_of_their_arm(
    unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_study, "STARTUP", 1)
    options = ["--arms", "none", "--trials", "4", "--search", "lr", "loss", "--measure", "map_at_r"]
    for name in ("one", "two"):
        assert main([*command(unreadable, tmp_path / name), *options]) == 0
    first, second = (stored(tmp_path / name) for name in ("one", "two"))
    assert [first["none", k]["values"] for k in range(4)] == [second["none", k]["values"] for k in range(4)]
    drawn = {str(first["none", k]["values"]) for k in range(1, 4)}
    assert len(drawn) == 3
    monkeypatch.setattr(tuning_study, "STARTUP", 5)  # all random: other values
    assert main([*command(unreadable, tmp_path / "three"), *options]) == 0
    assert not drawn & {str(stored(tmp_path / "three")["none", k]["values"]) for k in range(2, 4)}


def test_the_best_step_is_that_of_the_mean_over_the_folds() -> None:
    curves = [
        {10: {"recall_at_1": 0.9, "map_at_r": 0.1}, 20: {"recall_at_1": 0.6, "map_at_r": 0.5}},
        {10: {"recall_at_1": 0.1, "map_at_r": 0.1}, 20: {"recall_at_1": 0.6, "map_at_r": 0.3}},
    ]
    step, means, spread = best_step(curves, "recall_at_1")
    assert (step, means) == (20, {"recall_at_1": 0.6, "map_at_r": pytest.approx(0.4)})
    assert spread == 0
    curves[0][20]["recall_at_1"] = curves[1][20]["recall_at_1"] = 0.5
    assert best_step(curves, "recall_at_1")[0] == 20  # a tie goes to the higher MAP@R
    assert best_step([{5: curves[0][10], 10: curves[0][20]}], "recall_at_1")[::2] == (5, None)
    assert best_step([{5: curves[0][10], 10: curves[0][20]}], "recall_at_1", only_last=True)[0] == 10
