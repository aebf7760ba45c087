"""The average of the weights, the head's warm-up and mirror images, in whole runs that also stop and go on."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from embedding_expansion.data.images import read_image
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.model.trained import load_trained
from embedding_expansion.retrieval.metrics import retrieval_metrics
from embedding_expansion.runs.options import ModelConfig, TrainConfig
from embedding_expansion.training import checkpoint
from embedding_expansion.training.job import prepare
from embedding_expansion.training.loop import follow
from embedding_expansion.training.run import resume, train
from embedding_expansion.training.trained import evaluate


def parts(path: Path, prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in load_file(path).items() if name.startswith(prefix)}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_average_is_the_weighted_sum_of_all_weights_so_far() -> None:
    model = EmbeddingModel("conv4", dim=4)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    history = [model.head.weight.detach().double().clone()]
    weights = [1.0]
    for step in range(1, 8):
        with torch.no_grad():
            model.head.weight.add_(torch.randn_like(model.head.weight))
            model.trunk[0][1].num_batches_tracked.add_(1)
        follow(average, model, 0.6, step)
        keep = min(0.6, (1 + step) / (10 + step))
        weights = [weight * keep for weight in weights] + [1 - keep]
        history.append(model.head.weight.detach().double().clone())
    expected = sum(weight * value for weight, value in zip(weights, history, strict=True))
    assert sum(weights) == pytest.approx(1)
    torch.testing.assert_close(average.head.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert average.trunk[0][1].num_batches_tracked == 7
    assert not average.head.weight.requires_grad


def steps_of(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir())


def test_the_average_is_followed_measured_and_kept(small: TrainConfig) -> None:
    config = dataclasses.replace(small, ema=0.5, protocol="last", checkpoint_every=1, eval_every=1)
    outcome = train(config)
    before, last = steps_of(outcome.run)
    keep = min(0.5, 7 / 16)
    for name, value in parts(last, "average.").items():
        if value.is_floating_point():
            expected = keep * parts(before, "average.")[name] + (1 - keep) * parts(last, "model.")[name]
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    kept = load_file(outcome.run / "model.safetensors")
    assert equal(kept, parts(last, "average."))
    assert not equal(kept, parts(last, "model."))
    assert outcome.metrics is not None
    assert evaluate(outcome.run)["map_at_r"] == outcome.metrics["map_at_r"]
    plain = train(dataclasses.replace(config, ema=None, out=f"{config.out}-plain"))
    assert equal(load_file(plain.run / "model.safetensors"), parts(last, "model."))  # training itself is not changed


def test_a_run_that_stopped_goes_on_bit_for_bit(small: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        small,
        model=ModelConfig(backbone="efficientnet_b0", dim=8),
        data=dataclasses.replace(small.data, image_size=32),
        protocol="last",
        steps=7,
        checkpoint_every=2,
        ema=0.9,
        warmup_head=5,
    )
    whole = train(dataclasses.replace(config, out=str(tmp_path / "whole"))).run
    stopped = train(dataclasses.replace(config, out=str(tmp_path / "stopped"))).run
    for name in ("metrics.json", "model.safetensors"):
        (stopped / name).unlink()
    for at in (6, 4):  # after the warm-up, and within it
        for step in checkpoint.saved_steps(stopped / "checkpoints"):
            if step > at:
                checkpoint.discard(stopped / "checkpoints", step)
        if checkpoint.saved_steps(stopped / "checkpoints"):
            assert resume(stopped).metrics is not None
            for name in ("model.safetensors", "checkpoints/step-00000007.safetensors"):
                assert equal(load_file(whole / name), load_file(stopped / name))
            (stopped / "metrics.json").unlink()


def test_the_backbone_stands_still_while_the_head_warms_up(small: TrainConfig) -> None:
    config = dataclasses.replace(small, protocol="last", steps=3, checkpoint_every=1, eval_every=1, warmup_head=2)
    started = prepare(config).model.state_dict()
    second, third = (parts(path, "model.") for path in steps_of(train(config).run))
    trunk = [name for name in started if name.startswith("trunk.")]
    assert all(torch.equal(second[name], started[name]) for name in trunk)  # statistics of batch norm as well
    assert not any(torch.equal(second[name], started[name]) for name in ("head.weight", "head.bias"))
    moved = [name for name in trunk if not torch.equal(third[name], started[name])]
    assert any("running_mean" in name for name in moved)
    assert any(name.endswith(".weight") for name in moved)


@pytest.mark.parametrize("frozen", [False, True])
def test_with_flip_each_image_is_measured_both_ways(small: TrainConfig, frozen: bool) -> None:
    model = dataclasses.replace(small.model, freeze_backbone=frozen)
    outcome = train(dataclasses.replace(small, flip=True, model=model))
    opened, job = load_trained(outcome.run), prepare(small)
    images = job.dataset.test
    pixels = torch.stack([job.test_transform(read_image(path)) for path in images.paths or ()])
    total = opened.model.embed(pixels) + opened.model.embed(pixels.flip(-1))
    expected = retrieval_metrics(functional.normalize(total, dim=1), images.labels)
    assert outcome.metrics is not None
    assert {name: outcome.metrics[name] for name in expected} == pytest.approx(expected)
    assert evaluate(outcome.run)["map_at_r"] == outcome.metrics["map_at_r"]
    plain = retrieval_metrics(opened.model.embed(pixels), images.labels)
    again: dict[str, Any] = evaluate(outcome.run, flip=False)
    assert {name: again[name] for name in plain} == pytest.approx(plain)
    found = Embedder.load(outcome.run).embed(images.paths or (), flip=True)
    np.testing.assert_allclose(found, functional.normalize(total, dim=1).numpy(), atol=1e-5)
    assert json.loads(json.dumps(Embedder.load(outcome.run).describe()))["measured_with_flip"] is True


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ema": 1.0}, "ema is 1.0; pass a number between 0 and 1"),
        ({"ema": 0.0}, "ema is 0.0"),
        ({"ema": float("nan")}, "ema is nan"),
        ({"warmup_head": -1}, "warmup_head is -1"),
        ({"warmup_head": 2, "model": ModelConfig(freeze_backbone=True)}, "pass only one"),
    ],
)
def test_numbers_that_no_run_can_use_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        TrainConfig(**changes)
