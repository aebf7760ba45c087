"""Runs with a memory, with miners and in blocks: what they are told is in the log, and they resume bit for bit."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from embedding_expansion.errors import RunError
from embedding_expansion.runs.options import (
    DataConfig,
    ExpansionConfig,
    MemoryConfig,
    MinerConfig,
    ModelConfig,
    TrainConfig,
)
from embedding_expansion.training.run import resume, train

from .conftest import arguments
from .exactly import assert_equal, trained
from .test_resume import log, stop_at

LAST = "checkpoints/step-00000006.safetensors"


def quick(config: TrainConfig, **changes: Any) -> TrainConfig:
    return dataclasses.replace(config, protocol="last", measure_before=False, **changes)


def assert_same(one: Path, other: Path, names: tuple[str, ...]) -> None:
    for name in names:
        expected, found = load_file(one / name), load_file(other / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def cut(run: Path, to: Path) -> Path:
    """A copy of a complete run as if it had been killed after its third step."""
    shutil.copytree(run, to)
    for gone in ("metrics.json", "model.safetensors", LAST):
        (to / gone).unlink()
    return to


def test_a_killed_run_with_a_memory_and_draws_equals_one_that_never_stopped(
    small: TrainConfig, photographs: Path, tmp_path: Path
) -> None:
    # The backbone draws as well (stochastic depth): the miner's numbers come after its own.
    config = quick(
        small,
        model=ModelConfig(backbone="efficientnet_b0", dim=8),
        data=DataConfig(name=str(photographs), image_size=32, workers=0),
        loss={"name": "margin", "learn_beta": True},
        miner=MinerConfig("distance_weighted"),
        memory=MemoryConfig(size=20, start=2),
        chunk=3,
        steps=12,
        checkpoint_every=2,
    )
    whole = train(dataclasses.replace(config, out=str(tmp_path / "whole"))).run
    run = tmp_path / "stopped"
    killed = stop_at(5, run, arguments(dataclasses.replace(config, out=str(run))), signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (run / "metrics.json").exists()
    assert resume(run).metrics is not None
    assert log(run) == log(whole)
    last = "checkpoints/step-00000012.safetensors"
    assert_same(whole, run, ("model.safetensors", last))
    kept = load_file(run / last)
    assert int(kept["loss.entered"]) == 12 * 8
    assert int(kept["loss.batches"]) == 12
    assert kept["loss.rows"].shape == (20, 8)
    assert set(kept["loss.labels"].tolist()) <= set(range(6))  # numbered by the run
    (beta,) = [tensor for name, tensor in kept.items() if name.startswith("loss.") and name.endswith(".beta")]
    assert beta.shape == (6,)
    assert (beta != 1.2).any()


def test_the_shares_are_logged_and_the_memory_changes_the_loss_from_its_start_on(
    small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = train(quick(small, out=str(tmp_path / "alone"))).run
    remembering = train(quick(small, memory=MemoryConfig(size=16, start=3), out=str(tmp_path / "remembering"))).run
    assert "memory of 16 embeddings" in capsys.readouterr().out
    first, second = log(alone), log(remembering)
    assert [one["loss"] for one in first[:3]] == [other["loss"] for other in second[:3]]
    assert first[3]["loss"] != second[3]["loss"]
    assert all({"active_share", "synthetic_share"} <= line.keys() for line in second)


def test_a_checkpoint_with_another_memory_is_refused(small: TrainConfig, tmp_path: Path) -> None:
    run = cut(train(quick(small, memory=MemoryConfig(size=16))).run, tmp_path / "cut")
    text = (run / "config.yaml").read_text()
    for changed in (text.replace("\n  size: 16", f"\n  size: {other}") for other in (12, "none")):
        assert changed.count("\n  size: ") == 1
        assert changed != text
        (run / "config.yaml").write_text(changed)
        with pytest.raises(RunError, match=r"step-00000003\.safetensors does not fit config\.yaml"):
            resume(run, changed=True)


@pytest.mark.parametrize("miner", ["multi_similarity", "easy_positive", "batch_hard", "distance_weighted"])
@pytest.mark.parametrize("n", [2, "none"])
def test_a_run_with_a_miner_and_a_memory_resumes_bit_for_bit(
    small: TrainConfig, tmp_path: Path, miner: str, n: int | str
) -> None:
    loss, expansion = {"name": "contrastive"}, ExpansionConfig(n=n)
    config = quick(small, loss=loss, miner=MinerConfig(miner), memory=MemoryConfig(size=20), expansion=expansion)
    whole = train(config).run
    again = cut(whole, tmp_path / "cut")
    torch.rand(7)  # what was drawn before the run is nothing to it
    assert resume(again).metrics is not None
    assert_same(whole, again, ("model.safetensors", LAST))
    assert log(again) == log(whole)


def test_a_frozen_backbone_trains_with_a_memory(small: TrainConfig) -> None:
    model = ModelConfig(dim=8, freeze_backbone=True)
    outcome = train(quick(small, model=model, memory=MemoryConfig(size=16)))
    assert load_file(outcome.run / LAST)["loss.rows"].norm(dim=1).tolist() == pytest.approx([1.0] * 16, abs=1e-5)


@pytest.mark.parametrize("memory", ["none", 16])
def test_in_blocks_the_run_is_the_same(small: TrainConfig, memory: int | str) -> None:
    config = quick(small, memory=MemoryConfig(size=memory))
    assert_equal(trained(dataclasses.replace(config, chunk=3)), trained(config))


def test_fewer_segments_are_another_run_until_all_are_allowed(small: TrainConfig, tmp_path: Path) -> None:
    sampler = dataclasses.replace(small.sampler, images_per_class=4)
    losses = {}
    for limit in (None, 1, 100):
        expansion = ExpansionConfig(n=2, max_segments=limit)
        config = quick(small, sampler=sampler, expansion=expansion, steps=3, out=str(tmp_path / str(limit)))
        losses[limit] = [line["loss"] for line in log(train(config).run)]
    assert losses[None] == losses[100] != losses[1]
