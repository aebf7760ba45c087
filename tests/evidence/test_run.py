"""A run of the grid is a real training, measured on held-out and test classes."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.evidence.grid import Cell, regimes
from embedding_expansion.evidence.run import Material, RunStopped, _split, run
from embedding_expansion.evidence.settings import configuration
from embedding_expansion.evidence.views import Views
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.evaluation import hold_out_classes
from embedding_expansion.training.journal import Journal

SIDE, STEPS = 16, 6


def _images(names: str, seed: int) -> ImageSet:
    """Six noisy images of a pattern of each class."""
    draw = np.random.default_rng(seed)
    patterns = draw.integers(0, 200, (len(names), 1, SIDE, SIDE))
    pixels = patterns.repeat(6, axis=0) // 4 + draw.integers(0, 200, (6 * len(names), 1, SIDE, SIDE))
    return ImageSet(np.arange(len(names)).repeat(6), tuple(names), pixels=pixels.astype(np.uint8))


DATASET = Dataset("patterns", _images("abcdefghij", 1), _images("klmnop", 2))


def config(arm: str, **options: Any) -> TrainConfig:
    """A short training of an arm of the triplet loss."""
    cell = Cell("glyphs", "triplet", arm, "default", 1)
    made = configuration(cell, regimes()["glyphs"], {"optimizer.lr": 0.01}, {"data.image_size": SIDE, "steps": STEPS})
    sampler = dataclasses.replace(made.sampler, classes_per_batch=4)
    return dataclasses.replace(made, sampler=sampler, log_every=1, **options)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return run(config("balanced"), Material(DATASET), "", tests=True)


def test_a_record_has_measures_of_held_out_and_test_classes(record: dict[str, Any]) -> None:
    assert [step for step, *_ in record["held_out"]] == [0, 2, 4, 6]
    assert set(record["test"]) == {"recall_at_1", "map_at_r", "nmi", "f1"}
    assert all(0 <= value <= 1 for value in record["test"].values())
    assert record["steps"] == STEPS
    assert record["seconds"] > 0
    assert record["memory_mb"] > 0


def test_the_measures_by_class_have_the_mean_of_the_whole(record: dict[str, Any]) -> None:
    """All classes of the test images are of the same size."""
    for name, values in record["by_class"].items():
        assert len(values) == 6
        assert np.mean(values) / 1000 == pytest.approx(record["test"][name], abs=1e-3)


def test_the_course_of_the_balance_is_kept(record: dict[str, Any]) -> None:
    assert len(record["share"]) == STEPS
    assert set(record["forces"]) == {"pull", "push", "plain_pull", "plain_push", "no_push"}


def test_a_plain_run_has_no_balance_and_starts_like_the_expanded_one(record: dict[str, Any]) -> None:
    plain = run(config("plain"), Material(DATASET), "", tests=True)
    assert "share" not in plain
    assert plain["held_out"][0] == record["held_out"][0]
    assert plain["held_out"][-1] != record["held_out"][-1]


def test_a_run_can_be_repeated(record: dict[str, Any]) -> None:
    again = run(config("balanced"), Material(DATASET), "", tests=True)
    measured = ("held_out", "test", "by_class", "share")
    assert [again[name] for name in measured] == [record[name] for name in measured]


def test_trials_leave_the_test_classes_alone() -> None:
    test = ImageSet(np.array([0]), ("a",), paths=(Path("nowhere.png"),))
    unreadable = dataclasses.replace(DATASET, test=test)
    found = run(config("plain"), Material(unreadable), "", tests=False)
    assert "test" not in found
    assert "by_class" not in found


def test_faults_are_in_the_training_images_only() -> None:
    clean, faulty = (run(config("plain"), Material(DATASET), fault, tests=True) for fault in ("", "wrong30"))
    assert faulty["held_out"][0] == clean["held_out"][0]  # before the first step
    assert faulty["held_out"][-1] != clean["held_out"][-1]


def test_a_training_that_diverges_says_why() -> None:
    optimizer = dataclasses.replace(config("plain").optimizer, lr=1e30)
    found = run(config("plain", optimizer=optimizer), Material(DATASET), "", tests=True)
    assert "NaN or infinite" in found["diverged"]
    assert "test" not in found


def test_a_training_that_a_signal_stops_has_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Journal, "count", stop)
    with pytest.raises(RunStopped) as stopped:
        run(config("plain"), Material(DATASET), "", tests=True)
    assert stopped.value.signal == signal.SIGTERM


def _of_views(views: torch.Tensor) -> dict[str, Any]:
    """Trains a head on views of features."""
    given = config("plain")
    model = dataclasses.replace(given.model, backbone="conv4", freeze_backbone=True, dim=4)
    test = torch.randn(len(DATASET.test), views.shape[-1], generator=torch.Generator().manual_seed(5))
    return run(dataclasses.replace(given, model=model), Material(DATASET, Views(views, test)), "", tests=True)


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Features (n, w) of the training images."""
    width = _width_of_conv4()
    return torch.randn(len(DATASET.train), width, generator=torch.Generator().manual_seed(4))


def _width_of_conv4() -> int:
    from embedding_expansion.model.network import make_model

    given = dataclasses.replace(config("plain").model, backbone="conv4", channels=1)
    head = make_model(given, fetch_weights=False).head
    assert isinstance(head, torch.nn.Linear)
    return head.in_features


def test_views_that_are_alike_train_like_a_single_one(features: torch.Tensor) -> None:
    single, several = _of_views(features[None]), _of_views(features.expand(5, -1, -1))
    for name in ("held_out", "test", "by_class"):
        assert single[name] == several[name]


def test_a_step_draws_other_views(features: torch.Tensor) -> None:
    single, several = _of_views(features[None]), _of_views(torch.stack([features, -features]))
    assert single["held_out"][0] == several["held_out"][0]  # held-out images are measured on the first view
    assert single["held_out"][-1] != several["held_out"][-1]


def _held_out(seed: int) -> ImageSet:
    held = _split(DATASET, seed).validation
    assert held is not None
    return held


def test_the_classes_that_tune_never_judge() -> None:
    held = [set(_held_out(seed).classes.tolist()) for seed in range(9)]
    assert held[1:5] == held[5:9]
    assert set.union(*held) == set(range(10))
    assert sum(map(len, held[:5])) == 10  # five blocks without a common class
    for seed, classes in enumerate(held):
        assert set(_split(DATASET, seed).train.classes.tolist()) == set(range(10)) - classes


def test_the_trials_hold_out_what_a_training_holds_out_with_the_seed_0() -> None:
    train, held = hold_out_classes(DATASET.train, 0.2, 0)
    np.testing.assert_array_equal(_split(DATASET, 0).train.labels, train.labels)
    np.testing.assert_array_equal(_held_out(0).labels, held.labels)


def test_held_out_rows_of_features_are_those_of_the_held_out_images() -> None:
    held = _held_out(1)
    width = _width_of_conv4()
    features = torch.zeros(len(DATASET.train), width)
    is_held = np.isin(DATASET.train.labels, held.classes)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(DATASET.train.labels), width).float()
    features[torch.from_numpy(is_held)] = one_hot[torch.from_numpy(is_held)]
    given = config("plain")
    model = dataclasses.replace(given.model, backbone="conv4", freeze_backbone=True, dim=16)
    test = torch.ones(len(DATASET.test), width)
    found = run(dataclasses.replace(given, model=model), Material(DATASET, Views(features[None], test)), "", tests=True)
    assert found["held_out"][0][1] == 1.0  # each held-out class has a feature of its own, the others have none
