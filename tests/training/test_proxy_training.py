"""Runs with losses that learn proxies: numbered classes, proxies that move, and are saved and resumed with the run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from embedding_expansion.core.losses import PROXY_LOSSES
from embedding_expansion.runs.options import ExpansionConfig, ModelConfig, TrainConfig
from embedding_expansion.training.job import make_sampler, prepare
from embedding_expansion.training.run import resume, train


def with_loss(config: TrainConfig, name: str) -> TrainConfig:
    n = "none" if PROXY_LOSSES[name].not_expandable else 2
    return dataclasses.replace(config, loss={"name": name}, expansion=ExpansionConfig(n=n), measure_before=False)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_batches_number_the_classes_that_train_from_zero(small: TrainConfig, frozen: bool) -> None:
    job = prepare(dataclasses.replace(small, model=ModelConfig(dim=8, freeze_backbone=frozen), seed=1))
    classes = torch.from_numpy(job.train.classes)
    assert classes.tolist() != list(range(len(classes)))  # two of the six are held out, and leave gaps
    numbers = []
    for step, _, labels in job.batches(0, slice(None)):
        drawn = make_sampler(job.train, job.config).batch(step)
        assert classes[labels].tolist() == job.train.labels[drawn].tolist()
        numbers += labels.tolist()
    assert set(numbers) == set(range(len(classes)))


@pytest.mark.parametrize("name", PROXY_LOSSES)
def test_a_run_trains_the_proxies_and_resumes_bit_for_bit(small: TrainConfig, tmp_path: Path, name: str) -> None:
    config = dataclasses.replace(with_loss(small, name), protocol="last")
    start = [parameter.detach().clone() for parameter in prepare(config).loss.parameters()]
    whole = train(config).run
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    for gone in ("metrics.json", "model.safetensors", "checkpoints/step-00000006.safetensors"):
        (stopped / gone).unlink()
    assert resume(stopped).metrics is not None
    for file in ("model.safetensors", "checkpoints/step-00000006.safetensors"):
        expected, found = load_file(whole / file), load_file(stopped / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    (learnt,) = [tensor for key, tensor in expected.items() if key.startswith("loss.")]
    assert learnt.shape == start[0].shape
    assert (learnt != start[0]).any()


def test_proxies_start_from_the_seed(small: TrainConfig) -> None:
    config = with_loss(small, "proxy_nca")
    one, again, other = (prepare(dataclasses.replace(config, seed=seed)).loss.loss.proxies for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.norm(dim=1).mean().item(), 1.0, atol=0.3, rtol=0)
