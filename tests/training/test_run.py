"""Whole runs, in this process: what a run folder holds, and what the options change."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.optimizer import register_optimizer_step_post_hook

from embedding_expansion.core.losses import MultiSimilarityLoss
from embedding_expansion.core.search import native
from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.model.trained import find_device
from embedding_expansion.runs import config as configuration
from embedding_expansion.runs.options import DataConfig, OptimizerConfig, SamplerConfig, TrainConfig
from embedding_expansion.training import checkpoint
from embedding_expansion.training.run import resume, train

RETRIEVAL = {"recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "precision_at_1", "r_precision", "map_at_r"}
MEASURES = RETRIEVAL | {"nmi", "f1", "ami"}


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_everything_that_is_promised(small: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = train(small, command=("embex", "train"))
    run = Path(str(small.out))
    assert outcome.run == run
    metrics = json.loads((run / "metrics.json").read_text())
    assert outcome.metrics == metrics
    assert metrics.keys() >= MEASURES
    assert MEASURES == metrics["before"]["raw_pixels"].keys() == metrics["before"]["untrained"].keys()
    assert metrics["selected_step"] in (0, 2, 4, 6)
    assert metrics["wall_seconds"] > 0 < metrics["images_per_second"]
    lines = log(run)
    assert [line["step"] for line in lines] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert lines[0]["before"] == metrics["before"]
    assert lines[1].keys() == {"step", "validation"}
    for line in lines[2:]:
        assert {"loss", "lr", "images_per_second", "active_share", "synthetic_share"} <= line.keys()
        assert ("validation" in line) == (line["step"] % 2 == 0)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["command"] == ["embex", "train"]
    assert {"python", "torch", "embedding-expansion"} <= environment["versions"].keys()
    assert environment["search"] == native.describe()
    steps = {int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").iterdir()}
    assert steps == {4, 6, metrics["selected_step"]}
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    said = capsys.readouterr().out
    assert metrics["verdict"]["sentence"] in said
    for words in ("before, raw pixels", "before, untrained net", "after training", "images per second", str(run)):
        assert words in said


def test_the_written_configuration_is_complete_and_trains_the_same_again(small: TrainConfig, tmp_path: Path) -> None:
    train(dataclasses.replace(small, measure_before=False))
    run = Path(str(small.out))
    written = configuration.load(run / "config.yaml")
    assert (written.data.transform, written.threads, written.device, written.precision) == (
        "crop_flip",
        1,
        "cpu",
        "float32",
    )
    assert (written.model.channels, written.out) == (3, None)
    again = train(dataclasses.replace(written, out=str(tmp_path / "again"))).run
    assert configuration.load(again / "config.yaml") == written
    first, second = load_file(run / "model.safetensors"), load_file(again / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_kept_weights_are_those_of_the_best_evaluation(small: TrainConfig) -> None:
    outcome = train(dataclasses.replace(small, measure_before=False))
    values = {line["step"]: line["validation"]["map_at_r"] for line in log(outcome.run) if "validation" in line}
    assert outcome.metrics is not None
    assert outcome.metrics["selected_step"] == max(values, key=lambda step: (values[step], -step))
    kept = load_file(outcome.run / "model.safetensors")
    stored = load_file(outcome.run / "checkpoints" / f"step-{outcome.metrics['selected_step']:08d}.safetensors")
    assert all(torch.equal(tensor, stored[f"model.{name}"]) for name, tensor in kept.items())


def test_the_papers_protocol_selects_on_the_test_classes_and_says_so(
    small: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train(dataclasses.replace(small, protocol="paper", measure_before=False))
    values = {line["step"]: line["test"]["recall_at_1"] for line in log(outcome.run) if "test" in line}
    assert outcome.metrics is not None
    assert outcome.metrics["recall_at_1"] == max(values.values())
    assert "test classes" in outcome.metrics["selected_by"]
    assert capsys.readouterr().out.count("TEST") >= 4


def test_without_selection_the_last_weights_are_kept_and_all_classes_train(
    small: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train(dataclasses.replace(small, protocol="last", measure_before=False))
    assert outcome.metrics is not None
    assert outcome.metrics["selected_step"] == 6
    assert not any({"validation", "test"} & line.keys() for line in log(outcome.run))
    assert "6 classes (36 images) train;" in capsys.readouterr().out


def test_patience_stops_a_run_that_no_longer_gets_better(small: TrainConfig) -> None:
    still = dataclasses.replace(small, steps=40, patience=1, optimizer=OptimizerConfig(lr=1e-12), measure_before=False)
    model = dataclasses.replace(small.model, freeze_batch_norm=True)
    outcome = train(dataclasses.replace(still, model=model))
    assert outcome.metrics is not None
    assert (outcome.metrics["steps"], outcome.metrics["selected_step"]) == (2, 0)


WILD = OptimizerConfig(lr=1e-3, schedule="step", milestones=[4], gamma=1e30)  # the fifth step wrecks the weights


@pytest.mark.parametrize("eval_every", [100, 1])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_run_that_diverges_keeps_a_checkpoint_from_before(small: TrainConfig, name: str, eval_every: int) -> None:
    wild = dataclasses.replace(WILD, name=name)
    often = dataclasses.replace(small, optimizer=wild, measure_before=False, checkpoint_every=1, eval_every=eval_every)
    with pytest.raises(RunError, match=r"training diverged: .*NaN or infinite after step 5;.*--optimizer\.lr"):
        train(often)
    kept = sorted((Path(str(small.out)) / "checkpoints").iterdir())
    assert kept[-1].name == "step-00000004.safetensors"
    assert all(tensor.abs().max() < 100 for path in kept for tensor in load_file(path).values())


def test_weights_that_the_last_step_wrecked_are_not_kept_either(small: TrainConfig) -> None:
    last = dataclasses.replace(small, optimizer=WILD, measure_before=False, protocol="last", steps=5, eval_every=100)
    with pytest.raises(RunError, match=r"training diverged: .* after step 5;"):
        train(last)
    run = Path(str(small.out))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000003.safetensors"]
    assert not (run / "model.safetensors").exists()
    with pytest.raises(RunError, match=r"training diverged: .* after step 5;"):
        resume(run)


def test_a_loss_or_a_weight_that_is_no_number_is_never_saved(
    small: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = dataclasses.replace(small, measure_before=False, checkpoint_every=1, eval_every=100)

    def spoil(optimizer: torch.optim.Optimizer, *_: object) -> None:
        weight = optimizer.param_groups[0]["params"][0]
        if optimizer.state[weight]["step"] == 3:
            weight.data[0, 0] = torch.nan

    handle = register_optimizer_step_post_hook(spoil)
    try:
        with pytest.raises(RunError, match="the weights are NaN or infinite after step 3"):
            train(often)
    finally:
        handle.remove()
    monkeypatch.setattr(MultiSimilarityLoss, "forward", lambda self, embeddings, labels: embeddings.sum() * torch.inf)
    plain = dataclasses.replace(often, expansion=dataclasses.replace(small.expansion, n="none"))
    other = Path(str(small.out)) / "other"
    with pytest.raises(RunError, match=r"the loss is (-?inf|nan) after step 0"):
        train(dataclasses.replace(plain, out=str(other)))
    assert checkpoint.saved_steps(Path(str(small.out)) / "checkpoints") == [0, 1, 2]
    assert checkpoint.saved_steps(other / "checkpoints") == [0]


def test_a_frozen_backbone_trains_the_head_on_features_that_are_computed_once(
    small: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedding_expansion.model.network import EmbeddingModel

    seen = 0
    original = EmbeddingModel.features

    def counting(self: EmbeddingModel, images: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(images)
        return original(self, images)

    monkeypatch.setattr(EmbeddingModel, "features", counting)
    outcome = train(dataclasses.replace(small, model=dataclasses.replace(small.model, freeze_backbone=True)))
    assert seen == 73  # 36 images of 6 training classes, of which 2 select, 36 to test, and one to try the size
    assert log(outcome.run)[-1]["loss"] != log(outcome.run)[2]["loss"]


def test_a_run_that_cannot_be_is_refused_before_a_folder_is_made(small: TrainConfig) -> None:
    with pytest.raises(InvalidInput, match="50 classes per batch"):
        train(dataclasses.replace(small, sampler=SamplerConfig(50, 2)))
    with pytest.raises(InvalidInput, match="conv4 does not support images of 8 pixels"):
        train(dataclasses.replace(small, data=dataclasses.replace(small.data, image_size=8)))
    with pytest.raises(InvalidInput, match="precision"):
        train(dataclasses.replace(small, precision="float16"))
    with pytest.raises(InvalidInput, match="root is /somewhere"):
        train(dataclasses.replace(small, data=dataclasses.replace(small.data, root="/somewhere")))
    assert not Path(str(small.out)).exists()


def test_a_folder_with_something_in_it_is_not_overwritten(small: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match="exists and is not empty"):
        train(small)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_resuming_a_complete_run_changes_nothing(small: TrainConfig) -> None:
    run = train(dataclasses.replace(small, measure_before=False)).run
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert resume(run).metrics is not None
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_broken_images_do_not_stop_a_run_and_are_named_at_its_end(
    small: TrainConfig, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    copy = tmp_path / "photographs"
    shutil.copytree(photographs, copy)
    bad = [copy / "class_01" / "2.png", copy / "class_11" / "0.png"]
    for path in bad:
        path.write_bytes(b"no image")
    data = DataConfig(name=str(copy), image_size=16, workers=0)
    outcome = train(dataclasses.replace(small, data=data, protocol="last", measure_before=False, steps=20))
    assert outcome.metrics is not None
    assert outcome.metrics["broken_images"] == sorted(map(str, bad))
    assert "2 broken images left out" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["meta", "cuda:7", "hpu", "mtia"])
def test_a_device_that_is_not_here_is_refused(device: str) -> None:
    with pytest.raises(InvalidInput, match=f"device is {device}.*pass cpu"):
        find_device(device)
