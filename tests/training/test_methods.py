"""Runs with a method: they resume bit for bit, ranks train what one process does, and mistakes are one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from embedding_expansion.app.cli import main
from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.methods import METHODS
from embedding_expansion.runs.options import DataConfig, ExpansionConfig, MemoryConfig, ModelConfig, TrainConfig
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.run import resume, train
from ranks import results_of_ranks

from .conftest import small_config
from .exactly import assert_equal, trained
from .test_memory_training import LAST, assert_same, cut
from .test_resume import log

#: Lengths with which the phases of a schedule change within a few steps.
SHORT: dict[str, dict[str, Any]] = {
    "daml": {"plain_steps": 2, "hidden": 8},
    "hdml": {"window": 2, "hidden": 8},
    "dvml": {"first_steps": 2, "draws": 2, "hidden": 8},
    "memvir": {"start": 1, "gap": 0, "virtual": 2},
}


def with_method(config: TrainConfig, name: str, **changes: Any) -> TrainConfig:
    given = {"method": {"name": name, **SHORT.get(name, {})}, "loss": dict(METHODS[name].paper)}
    return dataclasses.replace(config, **given, expansion=ExpansionConfig(), measure_before=False, **changes)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 classes of 6 vectors."""
    path, rng = tmp_path_factory.mktemp("vectors") / "vectors.npz", np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 6)
    rows = rng.normal(size=(10, 8))[labels] + rng.normal(size=(60, 8))
    np.savez(path, features=rows.astype(np.float32), labels=labels)
    return path


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_killed_run_equals_one_that_never_stopped(
    name: str, small: TrainConfig, vectors: Path, tmp_path: Path
) -> None:
    config = with_method(
        small, name, data=DataConfig(name=str(vectors)), model=ModelConfig(backbone="mlp", dim=4), protocol="last"
    )
    whole = train(dataclasses.replace(config, out=str(tmp_path / "whole"))).run
    run = cut(whole, tmp_path / "cut")
    assert resume(run).metrics is not None
    assert log(run) == log(whole)
    assert_same(whole, run, ("model.safetensors", LAST))
    # The model has nothing of the method; the checkpoint has its state, which went on.
    kept, model = load_file(run / LAST), load_file(run / "model.safetensors")
    assert not any(key.startswith(("loss.", "generator", "method")) for key in model)
    if name in ("daml", "hdml", "dvml", "memvir"):
        assert int(kept["loss.steps"]) == 6
    logged = {key for entry in log(run) for key in entry if key.startswith("objective_")}
    assert "objective_metric" in logged
    assert len(logged) == {"daml": 2, "hdml": 3, "dvml": 3}.get(name, 1)


#: What keeps HDML, whose terms are sums of thousands, stable with SGD at 0.1.
STABLE = {"share": 0.999, "softmax": 0.01, "balance": 0.1}


def of_ranks(config: TrainConfig, name: str) -> TrainConfig:
    config = with_method(config, name)
    return dataclasses.replace(config, method=config.method | STABLE) if name == "hdml" else config


def work(rank: int, world: int, config: TrainConfig) -> dict[str, dict[str, Tensor]]:
    return {name: trained(of_ranks(config, name), Ranks(rank, world)) for name in METHODS}


def test_processes_give_the_gradients_and_weights_of_one(photographs: Path, tmp_path: Path) -> None:
    # Batch norm of the network is frozen: its statistics would be those of each rank's part of the batch.
    model = ModelConfig(dim=8, freeze_batch_norm=True)
    config = dataclasses.replace(small_config(photographs, tmp_path), steps=3, model=model)
    together = results_of_ranks(2, tmp_path, work, 2, config)
    for name in METHODS:
        alone = trained(of_ranks(config, name))
        for rank in together:
            assert_equal(rank[name], alone)


def test_a_frozen_backbone_gives_cached_features(small: TrainConfig, weights: Path, tmp_path: Path) -> None:
    model = ModelConfig(dim=8, weights=str(weights), freeze_backbone=True)
    config = with_method(small, "hdml", model=model, protocol="last", out=str(tmp_path / "run"))
    run = train(config).run
    kept, start = load_file(run / "model.safetensors"), load_file(weights)
    assert all(torch.equal(kept[f"trunk.{name}"], tensor) for name, tensor in start.items())
    assert load_file(run / LAST)["loss.generator.0.weight"].shape == (8, 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "damll"], "there is no method named 'damll'; did you mean 'daml'?"),
        (["--method", "daml", "--loss", "proxy_anchor"], "the method daml does not take the loss proxy_anchor"),
        (["--method", "das", "--loss", "proxy_nca"], "pass --loss multi_similarity, or any other loss without proxies"),
        (["--method", "hdml", "--method.pul", "3"], "did you mean 'pull'"),
        (["--method", "hdml", "--method.window", "0"], "window is 0"),
        (["--method", "das", "--expansion", "2"], "does not take expansion; omit it"),
        (["--method", "das", "--memory", "64"], "does not take memory.size; omit it"),
        (["--method", "loop", "--sampler.images_per_class", "3"], "two at a time; pass an even number"),
        (["--method", "hdml", "--model.dim", "none"], "model.dim none has no head"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "glyphs", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_tuning_compares_forms_of_expansion_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--data", "glyphs", "--method", "das"]) == 2
    assert "omit --method" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "loss"),
    [
        ([], {"name": "triplet", "margin": 1.0}),
        (["--loss.margin", "0.5"], {"name": "triplet", "margin": 0.5}),
        (["--loss", "n_pair"], {"name": "n_pair"}),
        (["--loss", "triplet"], {"name": "triplet"}),
    ],
)
def test_a_method_takes_the_loss_of_its_paper_unless_another_is_given(
    given: list[str], loss: dict[str, object], vectors: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = ["--data", str(vectors), "--model.dim", "4", "--steps", "1", "--measure_before", "false"]
    arguments += ["--sampler.classes_per_batch", "3", "--sampler.images_per_class", "2", "--device", "cpu"]
    assert main(["train", *arguments, "--method", "daml", *given, "--out", str(out)]) == 0
    from embedding_expansion.runs.config import load

    assert load(out / "config.yaml").loss == loss


def test_a_configuration_checks_its_method_in_python_too() -> None:
    with pytest.raises(UnknownName, match="did you mean 'metrix'"):
        TrainConfig(method={"name": "metrics"})
    with pytest.raises(InvalidInput, match="the method has no name"):
        TrainConfig(method={})
    with pytest.raises(InvalidInput, match=r"memory\.size"):
        TrainConfig(method={"name": "iaa"}, memory=MemoryConfig(size=8))
