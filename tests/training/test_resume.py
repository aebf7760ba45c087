"""A run that is interrupted and resumed ends bit for bit as if it had never stopped. Real processes, real signals."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from embedding_expansion.errors import RunError
from embedding_expansion.runs.options import DataConfig, ModelConfig, TrainConfig
from embedding_expansion.training.run import resume, train
from forked import EMBEX, Forked

from .conftest import arguments


def log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().split("\n")[:-1]]
    return [
        {name: value for name, value in line.items() if name not in ("images_per_second", "waiting_share")}
        for line in lines
    ]


def stop_at(step: int, run: Path, arguments: list[str], sent: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Starts `embex train` and sends it a signal once its log has reached a step."""
    process = Forked(EMBEX, "train", *arguments)
    deadline = time.monotonic() + 120
    while not ((run / "log.jsonl").exists() and log(run) and log(run)[-1]["step"] >= step):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode is not None
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def test_a_run_that_is_terminated_and_killed_and_resumed_equals_one_that_never_stopped(
    small: TrainConfig, photographs: Path, tmp_path: Path
) -> None:
    # EfficientNet draws random numbers within a step (stochastic depth) and has batch norm: nothing may be forgotten.
    config = dataclasses.replace(
        small,
        model=ModelConfig(backbone="efficientnet_b0", dim=8),
        data=DataConfig(name=str(photographs), image_size=32, workers=0),
        optimizer=dataclasses.replace(small.optimizer, schedule="cosine"),
        steps=24,
        eval_every=5,
        checkpoint_every=4,
    )
    whole = train(dataclasses.replace(config, out=str(tmp_path / "whole"))).run
    run = tmp_path / "stopped"
    stopped = dataclasses.replace(config, out=str(run), data=dataclasses.replace(config.data, workers=2))

    terminated = stop_at(2, run, arguments(stopped), signal.SIGTERM)
    assert terminated.returncode == 143, terminated
    assert f"embex train --resume {run}" in terminated.stdout
    assert terminated.stderr == ""
    assert not (run / "metrics.json").exists()
    reached = log(run)[-1]["step"]

    killed = stop_at(reached + 6, run, ["--resume", str(run)], signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert not (run / "metrics.json").exists()
    with (run / "log.jsonl").open("a") as stream:
        stream.write('{"step": 99, "lo')  # half a line, as a kill may leave it

    assert resume(run).metrics is not None
    assert log(run) == log(whole)
    for name in ("model.safetensors", "checkpoints/step-00000024.safetensors"):
        expected, found = load_file(whole / name), load_file(run / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    resumed = json.loads((run / "environment.json").read_text())["resumed"]
    assert [entry["after_step"] > 0 for entry in resumed] == [True, True]
    assert resumed[0]["command"] == ["embex", "train", "--resume", str(run)]
    assert "torch" in resumed[1]["versions"]
    timing = ("wall_seconds", "images_per_second", "reading")
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (whole, run))
    assert {k: v for k, v in first.items() if k not in timing} == {k: v for k, v in second.items() if k not in timing}


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over(small: TrainConfig) -> None:
    first = train(small)
    for path in [*(first.run / "checkpoints").iterdir(), first.run / "metrics.json", first.run / "model.safetensors"]:
        path.unlink()
    assert log(resume(first.run).run) == log(first.run)
    assert [line["step"] for line in log(first.run)] == [0, *range(7)]


def test_a_run_that_was_killed_while_it_was_measured_measures_the_same(small: TrainConfig) -> None:
    first = train(dataclasses.replace(small, patience=1))
    (first.run / "metrics.json").unlink()
    again = resume(first.run)
    assert first.metrics is not None
    assert again.metrics is not None
    assert again.metrics["recall_at_1"] == first.metrics["recall_at_1"]
    assert again.metrics["before"] == first.metrics["before"]
    assert again.metrics["steps"] == first.metrics["steps"]


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path, small: TrainConfig) -> None:
    with pytest.raises(RunError, match="there is no run folder"):
        resume(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"config\.yaml"):
        resume(tmp_path)
    run = train(dataclasses.replace(small, measure_before=False)).run
    (run / "metrics.json").unlink()
    last = max((run / "checkpoints").iterdir())
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(RunError, match=last.name):
        resume(run)
