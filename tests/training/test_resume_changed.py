"""Nothing that a run was started with changes in silence; what is resumed all the same keeps its split."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from embedding_expansion.app.cli import main
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.model.weights import load_tensors, save_tensors
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.run import train
from embedding_expansion.training.split import Sides, keep
from embedding_expansion.training.trained import evaluate, reopen

LAST = "checkpoints/step-00000003.safetensors"


@dataclasses.dataclass(frozen=True)
class Stopped:
    """A run that was stopped after 3 of 6 steps, its data, and the weights that it would have ended with."""

    run: Path
    data: Path
    weights: bytes


def stopped(config: TrainConfig, folder: Path) -> Stopped:
    data = folder / "data"
    once = dataclasses.replace(config, data=dataclasses.replace(config.data, name=str(data)), out=str(folder / "run"))
    run = train(dataclasses.replace(once, eval_every=6, checkpoint_every=3, measure_before=False)).run
    weights = (run / "model.safetensors").read_bytes()
    for name in ("metrics.json", "model.safetensors", "checkpoints/step-00000006.safetensors"):
        (run / name).unlink()
    return Stopped(run, data, weights)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    from embedding_expansion.runs.options import DataConfig, ExpansionConfig, ModelConfig, SamplerConfig

    folder = tmp_path_factory.mktemp("original")
    shutil.copytree(photographs, folder / "data")
    config = TrainConfig(
        data=DataConfig(image_size=16, workers=0),
        sampler=SamplerConfig(classes_per_batch=4, images_per_class=2),
        model=ModelConfig(dim=8),
        expansion=ExpansionConfig(n=2),
        loss={"name": "proxy_anchor"},
        validation_share=0.1,
        steps=6,
        threads=1,
        device="cpu",
    )
    (folder / "weights").write_bytes(stopped(config, folder).weights)
    return folder


@pytest.fixture
def state(original: Path, tmp_path: Path) -> Stopped:
    """A copy of the run and of its data, which does not know that it was moved."""
    folder = tmp_path / "copy"
    shutil.copytree(original, folder)
    for name in ("config.yaml", "fingerprint.json"):
        path = folder / "run" / name
        path.write_text(path.read_text().replace(str(original), str(folder)))
    return Stopped(folder / "run", folder / "data", (folder / "weights").read_bytes())


def picture(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((24, 20, 3), 99, np.uint8)).save(path)


def option(old: str, new: str) -> Callable[[Stopped], object]:
    def change(state: Stopped) -> None:
        path = state.run / "config.yaml"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))

    return change


def flip_a_bit(state: Stopped) -> None:
    path = state.run / LAST
    content = bytearray(path.read_bytes())
    content[-1000] ^= 4
    path.write_bytes(content)


CHANGES: dict[str, tuple[Callable[[Stopped], object], str]] = {
    "class came": (
        lambda s: picture(s.data / "aaa" / "0.png"),
        "1 class added (aaa); 1 class changed splits (class_05)",
    ),
    "class went": (lambda s: shutil.rmtree(s.data / "class_11"), "1 class removed (class_11)"),
    "image came": (lambda s: picture(s.data / "class_01" / "new.png"), "1 image added (class_01/new.png)"),
    "image went": (lambda s: (s.data / "class_07" / "3.png").unlink(), "1 image removed (class_07/3.png)"),
    "image rewritten": (lambda s: picture(s.data / "class_02" / "0.png"), "1 image changed (class_02/0.png)"),
    "image touched": (lambda s: os.utime(s.data / "class_02" / "0.png", (1, 1)), "1 image changed (class_02/0.png)"),
    "option": (option("lr: 0.001", "lr: 0.002"), "the option optimizer.lr is 0.002 in config.yaml and was 0.001"),
    "option came": (
        option("  name: proxy_anchor", "  name: proxy_anchor\n  alpha: 16"),
        "the option loss.alpha was added to config.yaml with 16",
    ),
    "bit of a checkpoint": (flip_a_bit, f"{LAST} has changed since it was written, because its checksum is wrong"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_what_changed_is_named_and_nothing_is_trained(
    state: Stopped, change: Callable[[Stopped], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(state)
    before = {path: path.read_bytes() for path in state.run.rglob("*") if path.is_file() and path.name != "lock"}
    assert main(["train", "--resume", str(state.run)]) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert {path: path.read_bytes() for path in before} == before


def test_an_unchanged_run_goes_on_in_silence_to_the_very_same_bytes(
    state: Stopped, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(state.data / "class_00" / "0.png", state.data / "elsewhere.png")  # and back: nothing but looks counts
    shutil.move(state.data / "elsewhere.png", state.data / "class_00" / "0.png")
    assert main(["train", "--resume", str(state.run)]) == 0
    assert (state.run / "model.safetensors").read_bytes() == state.weights
    assert capsys.readouterr().err == ""
    assert json.loads((state.run / "environment.json").read_text())["resumed"][0]["changed"] == []


def test_a_run_that_is_older_than_the_forms_of_expansion_goes_on(
    state: Stopped, capsys: pytest.CaptureFixture[str]
) -> None:
    option("  form: paper\n  n: 2\n  scope: null\n", "  n: 2\n  scope: class_pair\n")(state)
    path = state.run / "fingerprint.json"
    before = json.loads(path.read_text())
    for name in ("form", "balance"):
        del before["options"][f"expansion.{name}"]
    before["options"]["expansion.scope"] = "class_pair"
    path.write_text(json.dumps(before))
    assert main(["train", "--resume", str(state.run)]) == 0
    assert capsys.readouterr().err == ""
    assert (state.run / "model.safetensors").read_bytes() == state.weights


def test_a_class_that_came_takes_no_part_and_the_split_stays(state: Stopped) -> None:
    picture(state.data / "aaa" / "0.png")
    assert main(["train", "--resume", str(state.run), "--resume_changed"]) == 0
    # No image of the run has changed, so that it trains, selects and measures as if nothing had come.
    assert (state.run / "model.safetensors").read_bytes() == state.weights
    noted = json.loads((state.run / "environment.json").read_text())["resumed"]
    assert noted[0]["changed"] == ["1 class added (aaa)", "1 class changed splits (class_05)"]
    job = reopen(state.run)
    assert (job.dataset.train.class_names, job.dataset.test.class_names) == tuple(
        tuple(f"class_{number:02d}" for number in numbers) for numbers in (range(6), range(6, 12))
    )
    metrics = json.loads((state.run / "metrics.json").read_text())
    assert metrics["held_out_classes"] == job.held_out_classes
    assert evaluate(state.run)["recall_at_1"] == metrics["recall_at_1"]
    (state.run / "metrics.json").unlink()
    assert main(["train", "--resume", str(state.run)]) == 0  # what was accepted is no change any more


def test_the_numbers_of_classes_stay_when_a_class_has_gone(state: Stopped) -> None:
    job = reopen_stopped(state)
    gone = sorted(set(job.dataset.train.class_names) - set(job.held_out_classes))[1]
    number = {name: place for place, name in enumerate(job.dataset.train.class_names[i] for i in job.classes)}
    shutil.rmtree(state.data / gone)
    assert main(["train", "--resume", str(state.run), "--resume_changed"]) == 2  # 4 classes a batch, and 3 are left
    option("classes_per_batch: 4", "classes_per_batch: 3")(state)
    assert main(["train", "--resume", str(state.run), "--resume_changed"]) == 0  # its proxies fit still
    changed = reopen(state.run)
    for _, images, labels in changed.batches(0, slice(0, 2)):
        assert len(images) == 2
        assert set(labels.tolist()) <= set(number.values()) - {number[gone]}
    noted = json.loads((state.run / "environment.json").read_text())["resumed"][0]["changed"]
    assert noted == ["the option sampler.classes_per_batch is 3 in config.yaml and was 4", f"1 class removed ({gone})"]


def reopen_stopped(state: Stopped) -> Any:
    from embedding_expansion.runs import config
    from embedding_expansion.training.job import prepare

    return prepare(config.load(state.run / "config.yaml"))


def test_options_and_checkpoints_can_change_on_purpose(state: Stopped) -> None:
    option("lr: 0.001", "lr: 0.002")(state)
    flip_a_bit(state)
    assert main(["train", "--resume", str(state.run), "--resume_changed"]) == 0
    noted = json.loads((state.run / "environment.json").read_text())["resumed"][0]["changed"]
    assert noted[0].startswith("the option optimizer.lr is 0.002")
    assert noted[1] == "the checksum of step-00000003.safetensors was wrong"
    option("steps: 6", "steps: 8")(state)
    assert main(["train", "--resume", str(state.run)]) == 2  # complete, but not by this configuration
    assert main(["train", "--resume", str(state.run), "--resume_changed"]) == 0
    assert json.loads((state.run / "metrics.json").read_text())["steps"] == 8


def test_another_protocol_would_train_on_other_classes(state: Stopped, capsys: pytest.CaptureFixture[str]) -> None:
    option("protocol: validation", "protocol: last")(state)
    assert main(["train", "--resume", str(state.run), "--resume_changed"]) == 2
    assert "the run was started with held-out classes" in capsys.readouterr().err


def test_more_processes_that_load_images_change_nothing(state: Stopped) -> None:
    option("workers: 0", "workers: 1")(state)
    assert main(["train", "--resume", str(state.run)]) == 0
    assert (state.run / "model.safetensors").read_bytes() == state.weights


def test_another_number_of_processes_is_told(state: Stopped, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, about = load_tensors(state.run / LAST)
    assert about["processes"] == 1
    save_tensors(state.run / LAST, tensors, about | {"processes": 2})
    assert main(["train", "--resume", str(state.run)]) == 0
    said = capsys.readouterr().out
    assert said.count("resuming after step 3 with 1 process instead of 2, which round differently\n") == 1


def test_evaluating_and_reporting_keep_the_split_and_warn(state: Stopped, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(state.run)]) == 0
    measured = json.loads((state.run / "metrics.json").read_text())
    picture(state.data / "aaa" / "0.png")
    capsys.readouterr()
    assert main(["evaluate", str(state.run), "--out", str(state.run.parent / "measures.json")]) == 0
    again = json.loads((state.run.parent / "measures.json").read_text())
    assert all(again[name] == measured[name] for name in ("recall_at_1", "map_at_r", "nmi", "f1"))
    assert main(["report", str(state.run)]) == 0
    assert "1 class added (aaa)" in (state.run / "report.html").read_text()
    assert capsys.readouterr().err.count("1 class added (aaa)") == 2


TABLE = ["path,label,split"] + [
    f"data/class_{number:02d}/{image}.png,{'abcdefghijkl'[number]},{'train' if number < 6 else 'validation'}"
    for number in range(12)
    for image in range(6)
]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class_03/2.png,d", "class_03/2.png,e", "1 image moved to another class (data/class_03/2.png)"),
        ("0.png,a,train", "0.png,a,validation", "1 class changed splits (a)"),
    ],
)
def test_labels_and_sides_of_a_table(
    small: TrainConfig,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    said: str,
) -> None:
    (tmp_path / "data").symlink_to(photographs)
    table = tmp_path / "table.csv"
    table.write_text("\n".join(TABLE))
    data = dataclasses.replace(small.data, name=str(table))
    run = train(dataclasses.replace(small, data=data, measure_before=False, steps=1)).run
    (run / "metrics.json").unlink()
    assert main(["train", "--resume", str(run)]) == 0
    (run / "metrics.json").unlink()
    table.write_text("\n".join(TABLE).replace(old, new))
    capsys.readouterr()
    assert main(["train", "--resume", str(run)]) == 2
    assert said in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--resume_changed"]) == 0
    test = reopen(run).dataset.test
    assert not set("abcdef") & {test.class_names[label] for label in test.labels}


def test_vectors_are_known_by_their_content(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, labels = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32), np.arange(48) // 4
    file, run = tmp_path / "vectors.npz", tmp_path / "run"
    np.savez(file, embeddings=rows, labels=labels)
    options = ["--data", str(file), "--steps", "1", "--sampler.classes_per_batch", "3", "--measure_before", "false"]
    assert main(["train", *options, "--device", "cpu", "--threads", "1", "--out", str(run)]) == 0
    (run / "metrics.json").unlink()
    np.savez(file, embeddings=rows, labels=labels)  # the same again, at another time
    assert main(["train", "--resume", str(run)]) == 0
    (run / "metrics.json").unlink()
    rows[13, 2] += 1
    np.savez(file, embeddings=rows, labels=labels)
    assert main(["train", "--resume", str(run)]) == 2
    assert "1 class changed (3)" in capsys.readouterr().err


@given(
    train=st.permutations("abcdef"),
    now=st.permutations("abcdefgh"),
    first=st.integers(1, 7),
    kept=st.integers(2, 5),
)
def test_every_class_stays_on_its_side_whatever_is_drawn_now(
    train: list[str], now: list[str], first: int, kept: int
) -> None:
    def side(names: list[str]) -> ImageSet:
        labels = np.repeat(np.arange(len(names)), 3)
        content = np.array(
            [[ord(names[label]), image] for label, image in zip(labels, [0, 1, 2] * len(names), strict=True)]
        )
        return ImageSet(labels, tuple(names), pixels=content[:, :, None, None].astype(np.float32))

    sides = Sides(tuple(sorted(train[:kept])), (), tuple(sorted(train[kept:])))
    split = keep(Dataset("x", side(now[:first]), side(now[first:])), sides, TrainConfig(protocol="last"))
    for images, names in ((split.dataset.train, sides.train), (split.dataset.test, sides.test)):
        assert images.class_names == names
        assert images.pixels is not None
        assert [chr(int(code)) for code in images.pixels[:, 0, 0, 0]] == [name for name in names for _ in range(3)]
        assert [names[label] for label in images.labels] == [name for name in names for _ in range(3)]
