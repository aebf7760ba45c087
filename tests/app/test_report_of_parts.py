"""Reports of runs of which something is missing, and what happens where one cannot be written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.app.cli import main

from .test_report import SMALL, page_of


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    return tmp_path / "run"


def test_a_run_that_was_stopped_shows_its_curves_and_says_how_to_go_on(copied: Path) -> None:
    (copied / "metrics.json").unlink()
    (copied / "model.safetensors").unlink()
    assert main(["report", str(copied)]) == 0
    page = page_of(copied)
    assert "This run is not complete." in page.text
    assert "embex train --resume" in page.text
    assert "no final weights yet" in page.text
    assert {"curves", "measures", "run"} <= {attributes.get("id") for attributes in page.of("section")}
    assert not page.of("img")


def test_a_run_that_has_not_logged_anything_shows_its_settings(copied: Path) -> None:
    for path in copied.iterdir():
        if path.is_file() and path.name != "config.yaml":
            path.unlink()
    assert main(["report", str(copied)]) == 0
    page = page_of(copied)
    assert [attributes["id"] for attributes in page.of("section")] == ["run"]
    assert "classes_per_batch: 2" in page.text


def test_images_that_have_moved_are_told_of_in_a_sentence(copied: Path) -> None:
    config = copied / "config.yaml"
    name = next(line for line in config.read_text().splitlines() if line.startswith("  name: /"))
    config.write_text(config.read_text().replace(name, "  name: /no/such/folder"))
    assert main(["report", str(copied)]) == 0
    page = page_of(copied)
    assert "The model could not embed the test images" in page.text
    assert "/no/such/folder" in page.text
    assert not page.of("img")
    assert "measures" in {attributes.get("id") for attributes in page.of("section")}


def test_broken_images_are_named_and_leave_the_rest_whole(photographs: Path, tmp_path: Path) -> None:
    data = tmp_path / "photographs"
    shutil.copytree(photographs, data)
    for number in range(8):
        (data / f"class_{number}" / "2.png").write_bytes(b"no image")
    run = tmp_path / "run"
    assert main(["train", "--data", str(data), *SMALL.split(), "--out", str(run)]) == 0
    assert str(data / "class_7" / "2.png") in page_of(run).text
    first = (run / "report.html").read_bytes()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == first


def test_a_report_that_cannot_be_made_leaves_the_run_complete(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise ZeroDivisionError("some bug\nof ours")

    monkeypatch.setattr("embedding_expansion.app.report.page.render", fails)
    run = tmp_path / "run"
    assert main(["train", "--data", str(photographs), *SMALL.split(), "--out", str(run)]) == 0
    said = capsys.readouterr().err
    assert (
        said == f"embex: the run is complete, but writing its report failed: some bug of ours; try embex report {run}\n"
    )
    assert not (run / "report.html").exists()
    assert json.loads((run / "metrics.json").read_text())["steps"] == 2


def test_a_run_that_is_complete_already_gets_the_report_that_is_missing_and_nothing_else(copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file() and path.name != "lock"}
    assert main(["train", "--resume", str(copied)]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in copied.rglob("*") if path.is_file()} - {path.name for path in before} == {
        "lock",
        "report.html",
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        ([], "run"),
        (["RUN", "--out", "nowhere/x.html"], "nowhere/x.html cannot be written, there is no folder"),
        (["RUN", "--out", "."], "is a folder"),
        (["RUN", "--outt", "x"], "did you mean --out"),
    ],
)
def test_mistakes_are_one_line(
    given: list[str],
    words: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(str(trained) if each == "RUN" else each for each in given)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content"), [("log.jsonl", "no line\n"), ("metrics.json", "{}"), ("environment.json", "[]")]
)
def test_a_broken_file_of_the_run_is_named(
    name: str, content: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / name).write_text(content)
    assert main(["report", str(copied)]) == 2
    assert str(copied / name) in capsys.readouterr().err
    assert not (copied / "report.html").exists()


def test_a_report_of_vectors_shows_their_names_and_the_measures_of_the_vectors_themselves(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 12)).repeat(5, axis=0)
    names = np.array([f"<b>text {i}</b>" for i in range(40)])
    rows = (centres + rng.standard_normal(centres.shape)).astype(np.float32)
    np.savez(tmp_path / "texts.npz", embeddings=rows, labels=np.arange(40) // 5, names=names)
    run = tmp_path / "run"
    small = (
        "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 2 --threads 1 --device cpu --model.dim 4"
    )
    assert main(["train", "--data", str(tmp_path / "texts.npz"), *small.split(), "--out", str(run)]) == 0
    page, metrics = page_of(run), json.loads((run / "metrics.json").read_text())
    assert not page.of("img")
    shown = {word for word in page.words if word.startswith("<b>text ")}
    assert shown
    assert {int(word.removeprefix("<b>text ").removesuffix("</b>")) for word in shown} & set(range(20, 40))  # tested on
    assert "raw vectors" in page.text
    assert "raw pixels" not in page.text
    for name in ("recall_at_1", "map_at_r", "nmi"):
        assert f"{metrics['before']['raw_vectors'][name]:.3f}" in page.text
    assert "vectors a second" in page.text
    assert "1 pixels" not in page.text


def test_a_warning_of_the_run_is_shown_as_text(copied: Path) -> None:
    log = copied / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 2, "warning": "stayed at 1 < 2 & more"}\n')
    assert main(["report", str(copied)]) == 0
    assert "Warning at step 2: stayed at 1 < 2 & more." in page_of(copied).text
