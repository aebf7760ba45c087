"""A head on vectors: it learns what holds for unseen classes, standardises, resumes, and is measured like images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embedding_expansion.app.cli import main
from embedding_expansion.errors import InvalidInput
from embedding_expansion.model.trained import load_trained
from embedding_expansion.retrieval.clustering import clustering_metrics
from embedding_expansion.retrieval.metrics import retrieval_metrics
from embedding_expansion.runs.options import DataConfig, ModelConfig, OptimizerConfig, SamplerConfig, TrainConfig
from embedding_expansion.training import checkpoint
from embedding_expansion.training.job import prepare
from embedding_expansion.training.run import resume, train
from embedding_expansion.training.trained import evaluate


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """20 classes of 12 vectors: four dimensions tell them apart, eight louder ones say nothing, one is constant."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 12)
    told = draw.normal(size=(20, 4))[labels] + 0.2 * draw.normal(size=(240, 4))
    noise = 3 * draw.normal(size=(240, 8)) + 50
    np.savez(tmp_path / "some.npz", features=np.hstack([told, noise, np.full((240, 1), 7.0)]), labels=labels)
    return tmp_path / "some.npz"


@pytest.fixture
def config(small: TrainConfig, vectors: Path) -> TrainConfig:
    optimizer = OptimizerConfig(lr=0.01)
    data = DataConfig(name=str(vectors))
    return dataclasses.replace(small, data=data, steps=60, eval_every=30, checkpoint_every=20, optimizer=optimizer)


@pytest.mark.parametrize("backbone", ["linear", "mlp"])
def test_a_head_on_vectors_finds_unseen_classes_better_than_the_vectors_themselves(
    backbone: str, config: TrainConfig
) -> None:
    outcome = train(dataclasses.replace(config, model=ModelConfig(backbone=backbone, dim=4)))
    assert outcome.metrics is not None
    raw = outcome.metrics["before"]["raw_vectors"]["map_at_r"]
    assert outcome.metrics["map_at_r"] > 2 * raw
    again = evaluate(outcome.run)
    assert again["map_at_r"] == outcome.metrics["map_at_r"]


def test_the_dimensions_are_brought_to_one_scale_by_the_training_side_alone(config: TrainConfig, vectors: Path) -> None:
    job = prepare(dataclasses.replace(config, protocol="last"))
    with np.load(vectors) as stored:
        rows = stored["features"][stored["labels"] < 10]
    np.testing.assert_allclose(job.model.mean.flatten().numpy(), rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(job.model.std.flatten().numpy()[:-1], rows.std(axis=0)[:-1], rtol=1e-5)
    assert job.model.std.flatten()[-1] == 1
    inputs = torch.from_numpy(rows.astype(np.float32))[:, :, None, None]
    found = job.model.embed(inputs)
    standard = (rows - rows.mean(axis=0)) / np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1)
    head = job.model.head
    expected = standard @ head.weight.detach().numpy().T.astype(np.float64) + head.bias.detach().numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_resumed_run_on_vectors_equals_the_whole_one(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, protocol="last")
    whole = train(dataclasses.replace(config, out=str(tmp_path / "whole"))).run
    run = train(dataclasses.replace(config, out=str(tmp_path / "stopped"))).run
    for name in ("metrics.json", "model.safetensors"):
        (run / name).unlink()
    checkpoint.discard(run / "checkpoints", 60)
    assert resume(run).metrics is not None
    expected, found = load_file(whole / "model.safetensors"), load_file(run / "model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert torch.equal(load_trained(run).model.mean, load_trained(whole).model.mean)


def test_images_and_vectors_are_not_confused(config: TrainConfig, small: TrainConfig, tmp_path: Path) -> None:
    for changes, sentence in (
        ({"model": ModelConfig(backbone="resnet18")}, "resnet18 is for images"),
        ({"model": ModelConfig(channels=3)}, "vectors of 13 dimensions, but model.channels is 3"),
        ({"model": ModelConfig(freeze_backbone=True)}, "freeze_backbone is for images"),
        ({"data": dataclasses.replace(config.data, image_size=32)}, "neither image_size nor transform"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            prepare(dataclasses.replace(config, **changes))
    with pytest.raises(InvalidInput, match="mlp is for vectors"):
        prepare(dataclasses.replace(small, model=ModelConfig(backbone="mlp")))


def test_a_run_is_measured_on_vectors_of_fewer_classes_than_its_batches_have(
    config: TrainConfig, vectors: Path, tmp_path: Path
) -> None:
    run = train(dataclasses.replace(config, steps=2)).run
    with np.load(vectors) as stored:
        chosen = stored["labels"] < 4
        stored_rows, labels = stored["features"][chosen], stored["labels"][chosen]
    np.savez(tmp_path / "few.npz", features=stored_rows, labels=labels)
    found = evaluate(run, DataConfig(name=str(tmp_path / "few.npz")))
    rows = stored_rows[24:].astype(np.float32)
    embedded = load_trained(run).model.embed(torch.from_numpy(rows)[:, :, None, None])
    assert found["map_at_r"] == pytest.approx(retrieval_metrics(embedded, [0] * 12 + [1] * 12)["map_at_r"])


def test_vectors_from_elsewhere_are_measured(vectors: Path, tmp_path: Path) -> None:
    out = tmp_path / "measures.json"
    assert main(["evaluate", str(vectors), "--out", str(out)]) == 0
    with np.load(vectors) as stored:
        rows, labels = stored["features"].astype(np.float32), stored["labels"]
    expected = retrieval_metrics(rows, labels) | clustering_metrics(rows, labels, seed=0)
    found = json.loads(out.read_text())
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    side = np.where(labels < 5, "train", "test")
    np.savez(vectors, features=rows, labels=labels, split=side)
    assert main(["evaluate", str(vectors), "--out", str(out)]) == 0
    tested = retrieval_metrics(rows[side == "test"], labels[side == "test"])
    assert json.loads(out.read_text())["map_at_r"] == pytest.approx(tested["map_at_r"])


def test_a_backbone_is_measured_as_it_comes(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "measures.json"
    assert main(["evaluate", "conv4", "--data", str(photographs), "--out", str(out)]) == 0
    sampler = SamplerConfig(classes_per_batch=2)
    job = prepare(TrainConfig(data=DataConfig(name=str(photographs)), sampler=sampler, protocol="last"))
    job.model.eval()
    with torch.no_grad():
        features, images = job.run_over(job.dataset.test, job.model.features)
    expected = retrieval_metrics(features, images.labels)
    found = json.loads(out.read_text())
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["{vectors}", "--data", "glyphs"], "is vectors; omit it"),
        (["{vectors}", "--pretrained", "true"], "--pretrained is for backbones, but "),
        (["{folder}", "--weights", "some.safetensors"], "is a run folder or an export; omit it"),
        (["conv5"], "there is no folder conv5, and there is no backbone named 'conv5'; did you mean 'conv4'"),
        (["runs/gone"], "there is no folder runs/gone, and no backbone is named so"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    given: list[str], sentence: str, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option.format(vectors=vectors, folder=vectors.parent) for option in given]
    assert main(["evaluate", *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_batch_has_all_classes_where_there_are_fewer_than_thirty_two(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for classes, expected in ((20, 10), (80, 32)):  # half of them train
        path = tmp_path / f"{classes}.npz"
        np.savez(path, embeddings=rng.standard_normal((2 * classes, 3)), labels=np.arange(2 * classes) // 2)
        job = prepare(TrainConfig(data=DataConfig(name=str(path)), protocol="last"))
        assert job.config.sampler.classes_per_batch == expected
        assert job.batch_size == 4 * expected
