"""Where only the head learns: features computed once, and every training class held out once."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch

from embedding_expansion.app.cli import main
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.runs.config import load
from embedding_expansion.runs.options import ExpansionConfig
from embedding_expansion.training.cross_validation import class_folds
from embedding_expansion.training.job import prepare
from embedding_expansion.training.run import train_on
from embedding_expansion.training.split import open_data
from embedding_expansion.tuning.features import cached_features
from embedding_expansion.tuning.plan import make_plan

from .conftest import command
from .study_files import curve, stored


@pytest.fixture(scope="module")
def heads(unreadable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of heads on a frozen backbone."""
    out = tmp_path_factory.mktemp("heads") / "study"
    given = [*command(unreadable, out), "--model.freeze_backbone", "true", "--flip", "true", "--trials", "2"]
    assert main([*given, "--arms", "paper"]) == 0
    return out


def test_every_training_class_is_held_out_once(heads: Path) -> None:
    held = []
    for fold in (1, 2, 3):
        run = heads / "trials" / "paper-001" / f"fold-{fold}"
        sides = json.loads((run / "fingerprint.json").read_text())["sides"]
        held += sides["held_out"]
    assert sorted(held) == sorted(sides["train"])
    assert len(held) == 8


def test_the_value_is_the_mean_over_the_folds_at_one_step(heads: Path) -> None:
    for (arm, number), result in stored(heads).items():
        curves = [curve(heads / "trials" / f"{arm}-{number:03d}" / f"fold-{fold}") for fold in (1, 2, 3)]
        means = {
            step: tuple(statistics.fmean(one[step][name] for one in curves) for name in ("recall_at_1", "map_at_r"))
            for step in curves[0]
        }
        best = max(means, key=lambda step: (*means[step], -step))
        assert (result["step"], result["recall_at_1"], result["map_at_r"]) == (best, *means[best])
        assert result["spread"] == statistics.stdev(one[best]["recall_at_1"] for one in curves)
        assert result["trained"] == 3 * result["steps"]


def test_a_head_on_cached_features_is_the_head_on_computed_ones(heads: Path, tmp_path: Path) -> None:
    run = heads / "trials" / "paper-001" / "fold-2"
    config = load(run / "config.yaml")
    split = class_folds(open_data(config.data), 3, config.validation_share, config.seed)[1]
    again = train_on(type(config)(**{**vars(config), "out": str(tmp_path / "run")}), split).run
    for name in ("model.safetensors", "fingerprint.json"):
        assert (again / name).read_bytes() == (run / name).read_bytes()
    assert curve(again) == curve(run)


def test_features_are_computed_once(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "study"
    shutil.copytree(heads, out)
    rows = []
    original = EmbeddingModel.features

    def counted(model: EmbeddingModel, images: torch.Tensor) -> torch.Tensor:
        rows.append(len(images))
        return original(model, images)

    monkeypatch.setattr(EmbeddingModel, "features", counted)
    (data,) = {load(path).data.name for path in (out / "best").iterdir()}
    given = [*command(Path(data), out), "--model.freeze_backbone", "true", "--flip", "true", "--arms", "paper"]
    assert main(given) == 0
    assert not rows  # they are read from the file
    (out / "features.safetensors").unlink()
    rows.clear()
    assert main(given) == 0
    assert sorted(rows) == [1, 32, 32]  # all training images once, and mirrored; and a check of the image size


def test_images_that_cannot_be_read_have_no_features(unreadable: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "study"
    shutil.copytree(unreadable, data)
    (data / "class_01" / "2.png").write_bytes(b"no image")
    given = [*command(data, out), "--model.freeze_backbone", "true", "--arms", "none", "--trials", "1"]
    assert main(given) == 0
    assert stored(out)["none", 0]["value"] > 0
    trained = load(out / "trials" / "none-000" / "fold-1" / "config.yaml")
    config = dataclasses.replace(trained, expansion=ExpansionConfig())
    plan = make_plan(config, ["none"], 1)
    for split, features in zip(plan.splits, cached_features(plan, out / "features.safetensors"), strict=True):
        job = prepare(config, split)
        model = job.model.eval()
        for images in (split.train, split.validation):
            found, kept = features[id(images), False]
            assert len(found) == len(kept)
            assert len(kept) == len(images) - (1 in images.classes)
            pixels = torch.stack([job.test_transform(kept.load(k)) for k in range(len(kept))])
            with torch.no_grad():
                torch.testing.assert_close(found, model.features(pixels), rtol=1e-5, atol=1e-5)
