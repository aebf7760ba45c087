"""A run on a GPU: it trains, goes on where it was stopped, evaluates and embeds. Skipped where there is none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.runs.options import Precision, TrainConfig
from embedding_expansion.training.run import resume, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture
def on_gpu(small: TrainConfig) -> TrainConfig:
    return dataclasses.replace(small, device="cuda", precision="float32")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_losses_of_a_run_are_those_of_the_cpu(small: TrainConfig, on_gpu: TrainConfig, tmp_path: Path) -> None:
    here = losses(train(small).run)
    there = losses(train(dataclasses.replace(on_gpu, out=str(tmp_path / "gpu"))).run)
    assert there[0] == pytest.approx(here[0], rel=1e-3)
    assert there[:4] == pytest.approx(here[:4], rel=0.05)  # rounding grows from step to step


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(
    on_gpu: TrainConfig, precision: Precision, tmp_path: Path
) -> None:
    config = dataclasses.replace(on_gpu, precision=precision)
    whole = losses(train(config).run)
    steps = 0

    def stop(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt

    handle = register_optimizer_step_post_hook(stop)
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(config, out=str(stopped)))
    handle.remove()
    assert resume(stopped).metrics is not None
    assert losses(stopped) == pytest.approx(whole, rel=0.01)


def test_images_are_embedded_as_on_the_cpu(on_gpu: TrainConfig, photographs: Path) -> None:
    run = train(on_gpu).run
    images = sorted(photographs.rglob("*.png"))[:10]
    here, there = (Embedder.load(run, device=device).embed(images) for device in ("cpu", "cuda"))
    assert isinstance(there, np.ndarray)
    np.testing.assert_allclose(there, here, atol=2e-3)
    weights = load_file(run / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values() if tensor.is_floating_point())
