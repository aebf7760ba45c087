"""Recipes: which one suits which data, that given options win, and the cross-validation of a head."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from embedding_expansion.app.cli import main
from embedding_expansion.app.report.page import write_report
from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.images import Dataset
from embedding_expansion.errors import InvalidInput
from embedding_expansion.runs import config as configuration
from embedding_expansion.runs.options import DataConfig, ModelConfig, TrainConfig
from embedding_expansion.runs.recipes import RECIPES, finetuning_steps
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training import cross_validation, recipe
from embedding_expansion.training.cross_validation import FOLDS, class_folds
from embedding_expansion.training.recipe import choose_recipe
from embedding_expansion.training.run import resume, train, train_on

from .test_run import log


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """8 classes of 2 images with sides of 64 and 80 pixels: the smallest that count as photographs."""
    rng = np.random.default_rng(0)
    for number in range(16):
        path = tmp_path / "large" / f"class_{number // 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(path)
    return tmp_path / "large"


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def pretrained(weights: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(model=ModelConfig(backbone="conv4", weights=str(weights), **changes))


def opened(path: Path) -> Dataset:
    return open_dataset(str(path))


def test_small_images_and_vectors_are_trained_from_scratch(photographs: Path, tmp_path: Path) -> None:
    for name in ("glyphs", str(photographs)):
        found = choose_recipe(TrainConfig(), open_dataset(name))
        assert (found.name, found.defaults) == ("scratch", {"recipe": "scratch", "patience": 5})
    labels = np.repeat(np.arange(8), 2)
    np.savez(tmp_path / "vectors.npz", embeddings=np.eye(16, dtype=np.float32), labels=labels)
    assert choose_recipe(TrainConfig(), opened(tmp_path / "vectors.npz")).name == "scratch"


def test_photographs_without_weights_do_not_run_but_an_explicit_backbone_does(large: Path, no_cache: Path) -> None:
    with pytest.raises(InvalidInput, match=r"--model.pretrained true .* --model.weights .* --model.backbone conv4"):
        choose_recipe(TrainConfig(), opened(large))
    assert choose_recipe(TrainConfig(model=ModelConfig(backbone="conv4")), opened(large)).name == "scratch"
    assert choose_recipe(TrainConfig(recipe="scratch"), opened(large)).name == "scratch"
    with pytest.raises(InvalidInput, match=r"pass --model.backbone NAME"):
        choose_recipe(TrainConfig(model=ModelConfig(weights="net.safetensors")), opened(large))


@pytest.mark.parametrize("name", ["head", "finetune"])
def test_a_recipe_that_starts_from_weights_asks_for_them(name: Any, large: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "vectors.npz", embeddings=np.eye(16, dtype=np.float32), labels=np.arange(16) // 2)
    for given, data in ((ModelConfig(), tmp_path / "vectors.npz"), (ModelConfig(backbone="resnet18"), large)):
        with pytest.raises(InvalidInput, match=f"the recipe {name} starts from a pretrained backbone"):
            choose_recipe(TrainConfig(recipe=name, model=given), opened(data))


def test_the_limit_between_small_images_and_photographs_is_64_pixels(large: Path, no_cache: Path) -> None:
    for path in large.rglob("*.png"):
        with Image.open(path) as image:
            smaller = image.resize((80, 63))
        smaller.save(path)
    assert choose_recipe(TrainConfig(), opened(large)).name == "scratch"


def test_weights_in_the_cache_of_torch_are_taken(large: Path, no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "_steps_in_time", lambda given: 1000)
    from torchvision.models import ResNet18_Weights, resnet18

    torch.save(resnet18().state_dict(), no_cache / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    found = choose_recipe(TrainConfig(), opened(large))
    assert found.name == "finetune"
    assert (found.defaults["model.backbone"], found.defaults["model.pretrained"]) == ("resnet18", True)
    assert "resnet18's ImageNet weights are in torch's cache" in found.reason


@pytest.mark.parametrize(
    ("most", "changes", "name"),
    [
        (50, {}, "finetune"),
        (49, {}, "head"),
        (49, {"dim": "none"}, "finetune"),  # there is no head to train
        (1000, {"freeze_backbone": True}, "head"),
    ],
    ids=str,
)
def test_the_time_decides_between_head_and_finetune(
    most: int, changes: dict[str, Any], name: str, weights: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_steps_in_time", lambda given: most)
    found = choose_recipe(pretrained(weights, **changes), opened(large))
    assert found.name == name
    asked = choose_recipe(dataclasses.replace(pretrained(weights, **changes), recipe="scratch"), opened(large))
    assert (asked.name, asked.reason) == ("scratch", "as asked for")


@pytest.mark.parametrize("name", ["paper", "center_crop"])
def test_the_better_transform_is_used_unless_one_is_given(
    name: str, weights: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def measured(model: Any, images: Any, size: int, **_: Any) -> tuple[str, dict[str, float]]:
        asked.append(size)
        return name, {"paper": 0.25, "center_crop": 0.25} | {name: 0.5}

    monkeypatch.setattr(recipe, "_steps_in_time", lambda given: 1000)
    monkeypatch.setattr(recipe, "better_transform", measured)
    found = choose_recipe(pretrained(weights), opened(large))
    assert found.defaults["data.transform"] == name
    assert "0.500 on a sample of the training images, against 0.250" in found.images
    given = dataclasses.replace(pretrained(weights), data=DataConfig(transform="crop_flip", image_size=48))
    assert choose_recipe(given, opened(large)).images == ""
    sized = dataclasses.replace(given, data=DataConfig(image_size=48))
    choose_recipe(sized, opened(large))
    assert asked == [32, 48]


def test_a_slower_backbone_gets_fewer_steps(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.cumsum([0, 9, 0, 2, 0, 3]).tolist())
    monkeypatch.setattr(recipe.time, "perf_counter", lambda: next(clock))
    # 8 images in 2 s, the least of three; 64 of them with their gradient take 56 s.
    assert recipe._steps_in_time(pretrained(weights)) == int(recipe.BUDGET / (2 / 8 * 64 * 3.5)) == 10


@pytest.mark.parametrize(
    ("images", "most", "steps"),
    [(1122, 3000, 50), (3240, 3000, 200), (3240, 133, 100), (100, 3000, 50), (60_000, 3000, 3000), (3240, 20, 50)],
)
def test_steps_follow_from_the_images_and_the_time(images: int, most: int, steps: int) -> None:
    assert finetuning_steps(images, 64, most) == steps


def run_of(photographs: Path, weights: Path, out: Path, *more: str) -> int:
    options = f"--data {photographs} --data.image_size 16 --data.workers 0 --model.backbone conv4 --threads 1"
    return main(["train", *options.split(), "--model.weights", str(weights), "--out", str(out), *more])


def test_given_options_win_and_config_yaml_repeats_the_run(
    photographs: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--steps 3 --eval_every 2 --optimizer.lr 2e-3 --model.head_init random --sampler.images_per_class 2"
    assert run_of(photographs, weights, tmp_path / "a", "--recipe", "finetune", *given.split()) == 0
    printed = capsys.readouterr().out
    assert "recipe: finetune, as asked for\n" in printed
    (images,) = [line for line in printed.splitlines() if line.startswith("images: ")]
    assert images.startswith(("images: cropped at the centre, as MAP@R", "images: squashed, as MAP@R"))
    used = configuration.load(tmp_path / "a" / "config.yaml")
    assert (used.recipe, used.steps, used.optimizer.lr, used.model.head_init) == ("finetune", 3, 2e-3, "random")
    assert (used.ema, used.patience, used.model.dim, used.sampler.classes_per_batch) == (0.98, 6, 64, 3)
    assert (used.optimizer.schedule, used.model.freeze_batch_norm) == ("cosine", True)
    assert (used.expansion.form, used.expansion.n) == ("none", None)
    assert main(["train", "--config", str(tmp_path / "a" / "config.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert configuration.load(tmp_path / "b" / "config.yaml") == used
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_of_a_recipe_is_one_of_a_run(name: Any) -> None:
    known = configuration.may_be_null()
    assert set(RECIPES[name]) <= set(known)


@pytest.fixture
def folded(photographs: Path, weights: Path, tmp_path: Path) -> TrainConfig:
    """The head of 6 training classes in 3 folds."""
    assert (
        run_of(
            photographs,
            weights,
            tmp_path / "run",
            "--recipe",
            "head",
            "--steps",
            "6",
            "--eval_every",
            "2",
            "--log_every=1",
        )
        == 0
    )
    return dataclasses.replace(configuration.load(tmp_path / "run" / "config.yaml"), out=str(tmp_path / "run"))


def test_a_head_is_trained_on_all_classes_for_the_best_number_of_steps(folded: TrainConfig, tmp_path: Path) -> None:
    run = Path(str(folded.out))
    metrics = json.loads((run / "metrics.json").read_text())
    curve = {int(step): measures for step, measures in metrics["folds"]["curve"].items()}
    assert list(curve) == [0, 2, 4, 6]
    keeping = [step for step in curve if curve[step]["recall_at_1"] >= curve[0]["recall_at_1"]]
    best = max(keeping, key=lambda step: (curve[step]["map_at_r"], -step))
    assert (metrics["folds"]["step"], metrics["steps"], metrics["selected_step"]) == (best, best, best)
    assert metrics["selected_by"] == "MAP@R on training classes that were held out in turn"
    assert metrics["held_out_classes"] == []
    assert not (run / "folds").exists()


@pytest.mark.parametrize("chosen", [0, 4])
def test_the_weights_are_those_of_a_run_of_so_many_steps_on_all_classes(
    chosen: int, folded: TrainConfig, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_validation, "best_step", lambda *given, **options: (chosen, {}, None))
    # The cosine of a run of 4 steps is not that of 6 of which 4 are made.
    folded = dataclasses.replace(folded, optimizer=dataclasses.replace(folded.optimizer, schedule="none"))
    outcome = train(dataclasses.replace(folded, out=str(tmp_path / "chosen")))
    assert outcome.metrics is not None
    assert (outcome.metrics["steps"], outcome.metrics["selected_step"]) == (chosen, chosen)
    kept = load_file(outcome.run / "model.safetensors")
    if chosen:
        same = train(dataclasses.replace(folded, protocol="last", steps=chosen, out=str(tmp_path / "last")))
        expected = load_file(same.run / "model.safetensors")
    else:  # the backbone as it comes, and a head that changes nothing
        expected = {f"trunk.{name}": tensor for name, tensor in load_file(weights).items()}
        expected |= {"head.weight": torch.eye(64), "head.bias": torch.zeros(64)}
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    assert set(expected) <= set(kept)


@pytest.mark.parametrize("flip", [False, True])
def test_the_curve_is_the_mean_of_a_run_for_each_fold(flip: bool, folded: TrainConfig, tmp_path: Path) -> None:
    if flip:
        folded = dataclasses.replace(folded, flip=True, out=str(tmp_path / "flipped"))
        train(folded)
    dataset = open_dataset(folded.data.name)
    splits = class_folds(dataset, FOLDS, None, folded.seed)
    held = [name for split in splits if split.validation for name in split.validation.classes.tolist()]
    assert sorted(held) == dataset.train.classes.tolist()
    values = []
    for number, split in enumerate(splits):
        config = dataclasses.replace(
            folded, protocol="validation", out=str(tmp_path / f"fold{number}"), measure_before=False, measure_test=False
        )
        config = dataclasses.replace(config, sampler=dataclasses.replace(config.sampler, classes_per_batch=4))
        lines = log(train_on(config, split).run)  # without the features of the run
        values.append({line["step"]: line["validation"]["map_at_r"] for line in lines if "validation" in line})
    run = Path(str(folded.out))
    (noted,) = [line["folds"]["curve"] for line in log(run) if "folds" in line]
    for step in (0, 2, 4, 6):
        expected = np.mean([value[step] for value in values])
        assert noted[str(step)]["map_at_r"] == pytest.approx(expected, abs=1e-12)
    page = write_report(RunFolder(run)).read_text()
    assert "Retrieval on training classes held out in turn" in page
    best = json.loads((run / "metrics.json").read_text())["steps"]
    assert best == 6 or f"{best}, the best of up to 6" in page


def test_an_interrupted_cross_validation_goes_on_with_the_next_fold(
    folded: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    real: Callable[..., Any] = cross_validation._of_fold

    def killed(config: TrainConfig, split: Any, fold: Any) -> TrainConfig:
        begun.append(int(fold.path.name[-1]))
        if begun == [1, 2]:
            raise KeyboardInterrupt
        return real(config, split, fold)

    monkeypatch.setattr(cross_validation, "_of_fold", killed)
    again = dataclasses.replace(folded, out=str(tmp_path / "again"))
    with pytest.raises(KeyboardInterrupt):
        train(again)
    resume(tmp_path / "again")
    assert begun == [1, 2, 2, 3]
    whole, kept = (load_file(path / "model.safetensors") for path in (Path(str(folded.out)), tmp_path / "again"))
    assert all(torch.equal(whole[name], kept[name]) for name in whole)


def test_few_classes_are_not_cross_validated(photographs: Path, weights: Path, tmp_path: Path) -> None:
    for number in range(7, 12):
        shutil.copytree(photographs / f"class_{number:02d}", tmp_path / "few" / f"class_{number:02d}")
    dataset = open_dataset(str(tmp_path / "few"), train_classes=3)
    found = choose_recipe(dataclasses.replace(pretrained(weights), recipe="head"), dataset)
    assert "protocol" not in found.defaults


def test_the_start_of_a_recipe_has_the_neighbours_of_the_backbone(
    photographs: Path, weights: Path, tmp_path: Path
) -> None:
    assert run_of(photographs, weights, tmp_path / "run", "--recipe", "finetune", "--steps", "1") == 0
    config = configuration.load(tmp_path / "run" / "config.yaml")
    assert config.data.transform in ("paper", "center_crop")
    start = load_file(tmp_path / "run" / "checkpoints" / "step-00000000.safetensors")
    assert torch.equal(start["model.head.weight"], torch.eye(64))
    assert not start["model.head.bias"].any()


def test_the_best_number_of_steps_keeps_the_recall_of_the_start() -> None:
    measured = {0: (0.7, 0.3), 2: (0.6, 0.5), 4: (0.7, 0.4)}
    one = {step: {"recall_at_1": recall, "map_at_r": precision} for step, (recall, precision) in measured.items()}
    assert cross_validation.best_step([one], "map_at_r")[0] == 2
    assert cross_validation.best_step([one], "map_at_r", keeps_recall=True)[0] == 4
