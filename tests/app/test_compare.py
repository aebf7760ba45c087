"""embex compare against differences that are computed query by query."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from app.pages.laws import check_page
from embedding_expansion.app.cli import main
from embedding_expansion.data.images import read_image
from embedding_expansion.data.transforms import test_transform
from embedding_expansion.model.trained import load_trained


@pytest.fixture(scope="module")
def other(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second run on the same photographs, of another size and without expansion."""
    run = tmp_path_factory.mktemp("runs") / "other"
    options = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 3 --threads 1 --device cpu"
    sizes = "--data.image_size 20 --data.workers 0 --model.dim 4 --seed 3"
    assert main(["train", "--data", str(photographs), *options.split(), *sizes.split(), "--out", str(run)]) == 0
    return run


def hits(run: Path, photographs: Path) -> tuple[list[bool], list[int]]:
    """Whether the closest image of each test image is of its class, and which it is."""
    found = load_trained(run)
    transform = test_transform(found.preprocessing.size, str(found.config.data.transform))
    files = [photographs / f"class_{number}" / f"{image}.png" for number in range(4, 8) for image in range(4)]
    rows = found.model.embed(torch.stack([transform(read_image(path)) for path in files])).numpy()
    labels = np.repeat(range(4), 4)
    closest = [max((at for at in range(16) if at != row), key=lambda at: rows[row] @ rows[at]) for row in range(16)]
    return [bool(labels[row] == labels[at]) for row, at in enumerate(closest)], closest


def test_differences_are_paired_over_the_queries(
    trained: Path, other: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert main(["compare", str(trained), str(other), "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["queries"] == 16
    first, second = content["runs"]
    assert first["differences"] == {}
    before, after = (np.array(hits(run, photographs)[0], dtype=float) for run in (trained, other))
    assert first["measures"]["recall_at_1"] == pytest.approx(before.mean())
    found = second["differences"]["recall_at_1"]
    assert found["mean"] == pytest.approx((after - before).mean())
    tested = stats.ttest_rel(after, before)
    if not np.isnan(tested.pvalue):  # the runs answer alike otherwise
        low, high = tested.confidence_interval(0.95)
        assert (found["low"], found["high"], found["p"]) == pytest.approx((low, high, tested.pvalue))
    said = capsys.readouterr().out
    assert f"16 queries; differences to {trained} in points" in said
    assert f"{100 * found['mean']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})" in said


def test_a_run_does_not_differ_from_itself(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main(["compare", str(trained), str(trained), "--json", str(out)]) == 0
    _, again = json.loads(out.read_text())["runs"]
    assert again["differences"]["map_at_r"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_the_page_shows_queries_that_only_one_run_answers(
    trained: Path, other: Path, photographs: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert main(["compare", str(trained), str(other), "--html", str(page)]) == 0
    check_page(page)
    before, after = (hits(run, photographs)[0] for run in (trained, other))
    won = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    text = page.read_text()
    assert f"{won} queries have an image of their class closest here" in text
    assert f"{lost} the other way round" in text
    assert text.count("<img") == 3 * (min(won, 12) + min(lost, 12))


def test_what_cannot_be_compared_is_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, reason in (
        ([str(trained)], "there is one run only"),
        ([str(trained), str(tmp_path / "nowhere")], "nowhere"),
        ([str(trained), str(trained), "--data", "nowhere"], "nowhere"),
        ([str(trained), str(trained), "--json", str(tmp_path)], "is a folder"),
    ):
        assert main(["compare", *given]) == 2, given
        printed = capsys.readouterr().err
        assert reason in printed
        assert printed.count("\n") == 1


def test_runs_on_other_test_images_are_refused(
    trained: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 1 --threads 1 --device cpu"
    sizes = "--data.image_size 16 --data.workers 0 --data.train_classes 5"
    elsewhere = str(tmp_path / "elsewhere")
    assert main(["train", "--data", str(photographs), *options.split(), *sizes.split(), "--out", elsewhere]) == 0
    capsys.readouterr()
    assert main(["compare", elsewhere, str(trained)]) == 2
    assert "pass runs of the same data and split" in capsys.readouterr().err
