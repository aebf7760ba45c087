"""What a run starts from: its baselines, the weights of step 0, and the sentence at the end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from embedding_expansion.data.transforms import test_transform
from embedding_expansion.model.backbones import conv4
from embedding_expansion.runs.options import (
    DataConfig,
    ExpansionConfig,
    ModelConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
)
from embedding_expansion.training import checkpoint
from embedding_expansion.training.baselines import title, verdict
from embedding_expansion.training.job import prepare
from embedding_expansion.training.run import resume, train

from .test_run import log


@pytest.fixture
def started(small: TrainConfig, weights: Path) -> TrainConfig:
    """The small run with these weights."""
    return dataclasses.replace(small, model=dataclasses.replace(small.model, weights=str(weights)))


def without_speed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in ("images_per_second", "waiting_share")}
        for line in lines
    ]


def recall_at_1(vectors: np.ndarray, labels: np.ndarray) -> float:
    """The share of rows whose most similar other row has the same label."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return float(np.mean(labels[similar.argmax(axis=1)] == labels))


def features(weights: Path, pixels: Tensor) -> np.ndarray:
    """The mean over the feature map of the plain network, L2-normalised."""
    trunk = conv4(3)
    trunk.load_state_dict(load_file(weights))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        found = trunk.eval()((pixels / 255 - mean[:, None, None]) / std[:, None, None]).mean(dim=(2, 3)).double()
    return (found / found.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"flip": True}, {"frozen": True, "flip": True}], ids=str)
def test_a_pretrained_backbone_is_measured_as_it_comes(
    started: TrainConfig, weights: Path, options: dict[str, bool]
) -> None:
    flip = options.get("flip", False)
    model = dataclasses.replace(started.model, freeze_backbone=options.get("frozen", False))
    outcome = train(dataclasses.replace(started, model=model, flip=flip))
    assert outcome.metrics is not None
    before = outcome.metrics["before"]
    assert list(before) == ["raw_pixels", "backbone", "backbone_own_size"]
    test = prepare(started).dataset.test
    for name, size in (("backbone", 16), ("backbone_own_size", 32)):
        transform = test_transform(size, "crop_flip")
        pixels = torch.stack([transform(test.load(k)) for k in range(len(test))])
        vectors = features(weights, pixels)
        if flip:
            vectors = vectors + features(weights, pixels.flip(-1))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        assert before[name]["recall_at_1"] == recall_at_1(vectors, test.labels)
        assert before[name]["image_size"] == size


@pytest.mark.parametrize(("transform", "names"), [("crop_flip", []), ("paper", ["backbone_own_size"])])
def test_with_its_own_preprocessing_the_backbone_is_measured_once(
    transform: str, names: list[str], started: TrainConfig
) -> None:
    data = dataclasses.replace(started.data, image_size=32, transform=transform)
    outcome = train(dataclasses.replace(started, data=data))
    assert outcome.metrics is not None
    assert list(outcome.metrics["before"]) == ["raw_pixels", "backbone", *names]


def test_weights_that_training_makes_worse_are_not_handed_over(
    started: TrainConfig, weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.9, 0.5, 0.4, 0.3, 0.2])

    def falling(*_: Any) -> dict[str, float]:
        value = next(values)
        return {"recall_at_1": value, "map_at_r": value}

    monkeypatch.setattr("embedding_expansion.training.loop.measure_retrieval", falling)
    outcome = train(dataclasses.replace(started, steps=8))
    said = capsys.readouterr().out
    assert outcome.metrics is not None
    assert (outcome.metrics["selected_step"], outcome.metrics["steps"]) == (0, 8)
    kept, given = load_file(outcome.run / "model.safetensors"), load_file(weights)
    assert all(torch.equal(kept[f"trunk.{name}"], tensor) for name, tensor in given.items())
    assert "the weights of the start (step 0), as no later ones were better, selected by MAP@R on held-out" in said
    (warned,) = [line for line in log(outcome.run) if "warning" in line]
    assert warned["step"] == 6
    assert said.count("the held-out classes have been below their value at the start") == 1


def test_weights_with_less_recall_than_the_start_are_not_handed_over(
    started: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([(0.7, 0.3), (0.5, 0.5), (0.7, 0.4), (0.6, 0.6), (0.69, 0.9)])

    def measured(*_: Any) -> dict[str, float]:
        return dict(zip(("recall_at_1", "map_at_r"), next(values), strict=True))

    monkeypatch.setattr("embedding_expansion.training.loop.measure_retrieval", measured)
    outcome = train(dataclasses.replace(started, steps=8))
    assert outcome.metrics is not None
    assert (outcome.metrics["selected_step"], outcome.metrics["steps"]) == (4, 8)


def test_a_run_that_is_killed_at_the_start_goes_on_from_there(started: TrainConfig) -> None:
    first = train(dataclasses.replace(started, steps=1))
    lines, saved = log(first.run), first.run / "checkpoints"
    assert checkpoint.saved_steps(saved) == [0, 1]
    for path in (checkpoint.checkpoint_path(saved, 1), first.run / "metrics.json", first.run / "model.safetensors"):
        path.unlink()
    second = resume(first.run)
    assert second.metrics is not None
    assert [line["step"] for line in lines] == [0, 0, 1]
    assert without_speed(log(second.run)) == without_speed(lines)


def test_a_run_without_its_log_does_not_measure_later_weights_as_a_baseline(started: TrainConfig) -> None:
    first = train(started)
    (first.run / "metrics.json").unlink()
    (first.run / "log.jsonl").unlink()
    again = resume(first.run)
    assert again.metrics is not None
    assert (again.metrics["before"], again.metrics["verdict"]) == ({}, {})


BEFORE = {
    "raw_pixels": {"recall_at_1": 0.4},
    "backbone": {"recall_at_1": 0.8, "image_size": 128},
    "backbone_own_size": {"recall_at_1": 0.9, "image_size": 224},
}
FINE_TUNED = TrainConfig(
    model=ModelConfig(pretrained=True, freeze_batch_norm=True), expansion=ExpansionConfig(n="none")
)


@pytest.mark.parametrize(
    ("names", "value", "expected"),
    [
        (
            BEFORE,
            0.95,
            "helped: Recall@1 0.950 is 0.050 above that of the backbone with its own preprocessing, 224 pixels",
        ),
        (
            BEFORE,
            0.85,
            "training did not help: Recall@1 0.850 is 0.050 below that of the backbone with its own preprocessing",
        ),
        (["raw_pixels", "backbone"], 0.7, "0.100 below that of the backbone as it comes, 128 pixels (0.800); try"),
        (["raw_pixels", "backbone"], 0.8004, "training changed little: Recall@1 0.800 is that of the backbone as it"),
        (["raw_pixels"], 0.3, "below that of the raw pixels (0.400); try more --steps"),
    ],
)
def test_the_verdict_compares_with_the_best_baseline(names: Any, value: float, expected: str) -> None:
    before = {name: BEFORE[name] for name in names}
    found = verdict(before, {"recall_at_1": value}, FINE_TUNED)
    assert expected in found["sentence"]
    assert found["gain"] == pytest.approx(value - max(group["recall_at_1"] for group in before.values()))
    assert title(found["baseline"], before[found["baseline"]]) in found["sentence"]


@pytest.mark.parametrize(
    ("baseline", "config", "named", "unnamed"),
    [
        (
            "backbone",
            TrainConfig(model=ModelConfig(pretrained=True), expansion=ExpansionConfig(n=2)),
            ["--expansion none", "factor 0.03", "norm true"],
            [],
        ),
        ("backbone", FINE_TUNED, ["factor 0.03", "smaller --optimizer.lr"], ["--expansion", "norm"]),
        (
            "backbone",
            dataclasses.replace(FINE_TUNED, optimizer=OptimizerConfig(backbone_lr_factor=0.03)),
            ["smaller --optimizer.lr", "use the backbone without training"],
            ["factor"],
        ),
        ("backbone_own_size", FINE_TUNED, ["omit --data.image_size"], ["--optimizer", "center_crop"]),
        (
            "raw_pixels",
            TrainConfig(expansion=ExpansionConfig(n=2)),
            ["--expansion none", "more --steps", "a pretrained backbone"],
            [],
        ),
        ("raw_vectors", TrainConfig(), ["more --steps"], ["pretrained"]),
        ("untrained", TrainConfig(), ["more --steps"], ["--expansion", "backbone"]),
    ],
)
def test_the_advice_names_options_that_the_run_has_not_used(
    baseline: str, config: TrainConfig, named: list[str], unnamed: list[str]
) -> None:
    sentence = verdict({baseline: {"recall_at_1": 0.5}}, {"recall_at_1": 0.4}, config)["sentence"]
    assert all(option in sentence for option in named)
    assert not any(option in sentence.partition("; ")[2] for option in unnamed)


def test_a_centre_crop_that_is_better_is_advised() -> None:
    config = dataclasses.replace(FINE_TUNED, data=DataConfig(image_size=224, transform="paper"))
    before = {"backbone_own_size": {"recall_at_1": 0.5, "image_size": 224}}
    sentence = verdict(before, {"recall_at_1": 0.4}, config)["sentence"]
    assert "--data.transform center_crop" in sentence
    assert "image_size" not in sentence


def test_without_a_baseline_there_is_no_verdict() -> None:
    assert verdict({}, {"recall_at_1": 0.5}, TrainConfig()) == {}


def few_images(folder: Path, counts: list[int]) -> TrainConfig:
    for number, count in enumerate(counts):
        (folder / f"class_{number}").mkdir(parents=True)
        for k in range(count):
            pixels = np.full((16, 16, 3), 20 * number + 3 * k, np.uint8)
            Image.fromarray(pixels).save(folder / f"class_{number}" / f"{k}.png")
    return TrainConfig(
        data=DataConfig(name=str(folder), image_size=16, train_classes=len(counts) - 1, workers=0),
        sampler=SamplerConfig(classes_per_batch=2, images_per_class=2),
        model=ModelConfig(dim=8),
        steps=2,
        threads=1,
        device="cpu",
        out=str(folder.parent / "run"),
    )


def test_classes_that_cannot_be_measured_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = train(few_images(tmp_path / "data", [1, 1, 1, 1, 3]))
    said = capsys.readouterr().out
    assert "warning: the test set has only one class" in said
    assert "warning: the held-out training classes cannot be measured" in said
    assert outcome.metrics is not None
    assert (outcome.metrics["selected_step"], outcome.metrics["selected_by"]) == (2, "the last step")
