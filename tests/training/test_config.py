"""The configuration: the command line, config.yaml, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.training.config import (
    DataConfig,
    ExpansionConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    dump,
    from_namespace,
    load,
    parser,
)

UNUSUAL = TrainConfig(
    data=DataConfig(name="a: b # c", root="/x y", part=True, train_classes=3, workers=2, image_size=64),
    model=ModelConfig(backbone="timm/resnet18", mean=[0.5, 0.25, 0.125], std=[1.0, 2.0, 3.0], freeze_batch_norm=True),
    loss={"name": "hphn_triplet", "margin": 0.3, "soft_margin": True},
    expansion=ExpansionConfig(n="none", scope="anchor", normalize_synthetic=False),
    optimizer=OptimizerConfig(lr=1e-5, schedule="step", milestones=[10, 20], clip_norm=1.0),
    protocol="paper",
    patience=3,
    threads=1,
    out="runs/a b",
)


@pytest.mark.parametrize("config", [TrainConfig(), UNUSUAL], ids=["default", "unusual"])
def test_a_configuration_written_as_yaml_reads_back_as_the_same(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "config.yaml") == config


def test_the_command_line_without_options_is_the_default_configuration() -> None:
    assert from_namespace(parser().parse_args([])) == TrainConfig()


def test_options_override_the_file_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("steps: 7\nloss: {name: triplet, margin: 0.5}\nmodel: {dim: 9}\n")
    given = ["--config", str(tmp_path / "mine.yaml"), "--model.dim", "10", "--loss.margin", "0.75"]
    config = from_namespace(parser().parse_args(given))
    assert (config.steps, config.model.dim, config.model.backbone) == (7, 10, "conv4")
    assert config.loss == {"name": "triplet", "margin": 0.75}


def test_every_option_says_in_the_help_what_it_is() -> None:
    text = parser().format_help()
    for section in dataclasses.fields(TrainConfig):
        assert f"--{section.name}" in text


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"patience": 0},
        {"validation_share": 1.0},
        {"loss": {"margin": 1.0}},
        {"seed": -1},
        {"expansion": ExpansionConfig(n=-1)},
        {"optimizer": OptimizerConfig(lr=float("nan"))},
        {"model": ModelConfig(dim=0)},
        {"data": DataConfig(image_size=0)},
    ],
)
def test_numbers_that_no_run_can_use_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="pass"):
        dataclasses.replace(TrainConfig(), **change)


def test_a_file_that_is_no_configuration_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")
    (tmp_path / "odd.yaml").write_text("stepz: 3\n")
    with pytest.raises(RunError, match=r"odd\.yaml.*stepz"):
        load(tmp_path / "odd.yaml")
