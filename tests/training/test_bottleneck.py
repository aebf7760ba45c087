"""A run says what it waited for; a set of shrunk images trains like any other."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from embedding_expansion.data.preparing import prepare_images
from embedding_expansion.data.reading import ReadingClock
from embedding_expansion.runs.options import DataConfig, TrainConfig
from embedding_expansion.training.bottleneck import bottleneck
from embedding_expansion.training.job import Job, prepare
from embedding_expansion.training.report import print_setup
from embedding_expansion.training.run import train
from embedding_expansion.training.state import State


def test_the_clock_tells_waiting_from_computing() -> None:
    clock = ReadingClock()
    assert clock.share == 0

    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number

    for number in clock.waits(slow()):
        with clock.computes():
            time.sleep(0.01)
        time.sleep(0.05 * number)  # neither, such as an evaluation between two steps
    assert 0.06 <= clock.waiting < clock.waiting + clock.computing
    assert clock.computing >= 0.03
    assert clock.share == clock.waiting / (clock.waiting + clock.computing)


@pytest.fixture(scope="module")
def shrunk(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs with a short side of 16 pixels."""
    folder = tmp_path_factory.mktemp("prepared") / "photographs-16"
    prepare_images(str(photographs), folder, size=16, workers=0)
    return folder


def job_of(config: TrainConfig, data: Path, clock: ReadingClock, **options: int) -> Job:
    given = dataclasses.replace(config.data, name=str(data), **options)
    job = prepare(dataclasses.replace(config, data=given))
    job.clock = clock
    return job


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The photographs count as large."""
    monkeypatch.setattr("embedding_expansion.training.bottleneck.short_side", lambda images: 3000.0)


def test_images_that_are_small_already_are_not_to_be_shrunk(small: TrainConfig, photographs: Path) -> None:
    found = bottleneck(job_of(small, photographs, ReadingClock(waiting=10.0, computing=10.0)))
    assert "the images hold it up; to be faster, raise --data.workers" in found["sentence"]


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(("waiting", "decoding", "is_slow"), [(1.0, 0.0, False), (10.0, 0.0, True), (1.0, 1e6, True)])
def test_the_sentence_names_what_to_do(
    small: TrainConfig, photographs: Path, shrunk: Path, waiting: float, decoding: float, is_slow: bool
) -> None:
    clock = ReadingClock(waiting=waiting, computing=30.0, decoding=decoding)
    found = bottleneck(job_of(small, photographs, clock))
    share = waiting / (waiting + 30)
    assert found["waiting_share"] == pytest.approx(share, abs=1e-4)
    assert found["sentence"].startswith(f"of the time with images, {share:.0%} was spent waiting for them")
    assert ("embex data prepare" in found["sentence"]) == is_slow
    assert found["sentence"].endswith("the model is what takes the time") != is_slow
    assert ("raise --data.workers (now 0)" in found["sentence"]) == (waiting == 10)
    assert "embex data prepare" not in bottleneck(job_of(small, shrunk, clock))["sentence"]


@pytest.mark.usefixtures("large")
def test_the_command_has_the_size_that_the_model_needs(small: TrainConfig, photographs: Path) -> None:
    clock = ReadingClock(waiting=1.0, computing=1.0)
    sentence = bottleneck(job_of(small, photographs, clock, image_size=448))["sentence"]
    assert f"`embex data prepare {photographs} --size 512` and train with --data {photographs}-512" in sentence


def test_there_is_no_sentence_on_images_in_memory(small: TrainConfig, photographs: Path) -> None:
    job = job_of(small, photographs, ReadingClock(waiting=1.0, computing=1.0))
    pixels = torch.zeros(72, 3, 4, 4, dtype=torch.uint8).numpy()
    held = dataclasses.replace(job.dataset.train, paths=None, pixels=pixels[: len(job.dataset.train)])
    job.dataset = dataclasses.replace(job.dataset, train=held)
    assert bottleneck(job) == {}


def test_a_run_on_shrunk_images_says_so_and_what_it_waited_for(
    small: TrainConfig, shrunk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataclasses.replace(small.data, name=str(shrunk))
    outcome = train(dataclasses.replace(small, data=data))
    metrics, printed = outcome.metrics, capsys.readouterr().out
    assert metrics is not None
    assert metrics["reading"]["sentence"] in printed
    assert metrics["prepared"] in printed
    assert "short side of 16 pixels" in metrics["prepared"]
    assert 0 < metrics["reading"]["waiting_share"] < 1  # no processes decode, so every step waits
    assert metrics["reading"]["waiting_seconds"] >= 0.5 * metrics["reading"]["decoding_cpu_seconds"]
    log = [json.loads(line) for line in (outcome.run / "log.jsonl").read_text().splitlines()]
    assert all(0 < entry["waiting_share"] < 1 for entry in log if "loss" in entry)


def test_a_run_warns_of_changed_originals_and_of_images_that_are_too_small(
    small: TrainConfig, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copied"
    for path in photographs.rglob("*.png"):
        place = copied / path.relative_to(photographs)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    prepare_images(str(copied), tmp_path / "shrunk", size=16, workers=0)
    os.utime(copied / "class_00" / "0.png", ns=(1, 1))
    config = dataclasses.replace(small, data=DataConfig(name=str(tmp_path / "shrunk"), image_size=24, workers=0))
    print_setup(prepare(config), State("adam"), 1)
    said = capsys.readouterr().out
    assert "of the 72 originals" in said
    assert "1 changed since they were shrunk (the first is class_00/0.png)" in said
    assert "a short side of 16 pixels, but 27 are needed" in said
