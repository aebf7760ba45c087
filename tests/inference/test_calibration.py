"""Thresholds against plain loops; what a run, an export and an index are calibrated on; where thresholds go."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.inference.calibration import Labelled, calibrate
from embedding_expansion.inference.collection import Collection
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.gallery import thresholds_of
from embedding_expansion.inference.labelled import labelled_of_run
from embedding_expansion.inference.thresholds import Goal, read_thresholds
from embedding_expansion.retrieval.index import open_index
from embedding_expansion.retrieval.threshold import Threshold
from embedding_expansion.runs.config import load
from embedding_expansion.training.evaluation import hold_out_classes


def labelled(classes: int = 6, each: int = 8, seed: int = 0) -> Labelled:
    draw, labels = np.random.default_rng(seed), np.repeat(np.arange(classes), each)
    rows = draw.normal(size=(classes, 5))[labels] + 0.8 * draw.normal(size=(len(labels), 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Labelled(rows.astype(np.float32), labels, "drawn numbers")


def best(scores: list[tuple[float, bool, bool]], goal: Goal) -> tuple[float, float, float]:
    """(value, reached, hit rate) of the threshold with the most hits: a score, whether positive, whether a hit."""
    found = (-2.0, 0.0, -1.0)
    positives, negatives = sum(p for _, p, _ in scores), sum(not p for _, p, _ in scores)
    for value in sorted({score for score, _, _ in scores}):
        accepted = [(positive, hit) for score, positive, hit in scores if score >= value]
        hits = sum(hit for _, hit in accepted)
        wrong = sum(not positive for positive, _ in accepted)
        reached = wrong / negatives if goal.precision is None else hits / len(accepted)
        fits = reached <= (goal.false_alarm_rate or 0) if goal.precision is None else reached >= goal.precision
        if fits and hits / positives >= found[2]:
            found = (value, reached, hits / positives)
    return found


@pytest.mark.parametrize("goal", [Goal(precision=0.8), Goal(false_alarm_rate=0.1), Goal(false_alarm_rate=0.0)])
def test_the_threshold_of_pairs_is_the_one_that_plain_loops_find(goal: Goal) -> None:
    data = labelled()
    cosines = data.vectors.astype(np.float64) @ data.vectors.astype(np.float64).T
    same = data.labels[:, None] == data.labels
    pairs = [(cosines[i, j], bool(same[i, j]), bool(same[i, j])) for i, j in itertools.combinations(range(48), 2)]
    threshold = calibrate(data, goal, seed=3).thresholds["same or not"]
    value, reached, hit_rate = best(pairs, goal)
    assert threshold.value == pytest.approx(value, abs=1e-6)
    assert (threshold.reached, threshold.hit_rate) == (pytest.approx(reached), pytest.approx(hit_rate))
    assert threshold.positives == sum(positive for _, positive, _ in pairs)
    assert threshold.negatives == sum(not positive for _, positive, _ in pairs)
    assert threshold.data == "48 images of 6 classes of drawn numbers"


def test_what_cannot_be_had_is_told_and_the_rest_is_given() -> None:
    data = labelled(classes=2)
    copies = Labelled(np.eye(5, dtype=np.float32)[[0, 1, 0, 1]], np.array([0, 0, 1, 1]), "copies under two labels")
    found = calibrate(copies, Goal(false_alarm_rate=0.5))
    assert list(found.thresholds) == ["same or not"]
    assert "no threshold has a false alarm rate of 0.5" in found.failed["known or unknown"]
    with pytest.raises(InvalidInput, match="no threshold can be calibrated on 8 images of 1 classes of one class"):
        calibrate(Labelled(data.vectors[:8], data.labels[:8], "one class"), Goal(precision=0.5))
    for precision, rate in ((None, None), (0.9, 0.1), (1.5, None), (None, -0.1)):
        with pytest.raises(InvalidInput):
            Goal(precision=precision, false_alarm_rate=rate)


def test_a_run_is_calibrated_on_the_classes_that_it_held_out(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load(trained / "config.yaml")
    dataset = open_dataset(config.data.name)
    _, held = hold_out_classes(dataset.train, config.validation_share, config.seed)
    tested = {dataset.test.class_names[label] for label in dataset.test.classes}
    assert held.paths is not None
    assert not {path.parent.name for path in held.paths} & tested
    found = labelled_of_run(trained, device="cpu")
    np.testing.assert_allclose(found.vectors, Embedder.load(trained, device="cpu").embed(held.paths), atol=1e-5)
    assert found.labels.tolist() == held.labels.tolist()

    run = shutil.copytree(trained, tmp_path / "run")
    assert main(["calibrate", str(run), "--false_alarm_rate", "0.5"]) == 0
    said = capsys.readouterr().out
    expected = calibrate(found, Goal(false_alarm_rate=0.5)).thresholds
    assert read_thresholds(run) == expected
    assert "calibrated on 8 images of 2 classes of photographs" in said
    for threshold in expected.values():
        assert f"{threshold.task}: from {threshold.value:.4f} on, with a false alarm rate of" in said
    assert "other classes may need other thresholds" in said

    for kind in ("safetensors", "onnx"):
        assert main(["export", str(run), "--format", kind, "--out", str(tmp_path / kind)]) == 0
        assert Embedder.load(tmp_path / kind).thresholds == expected
        card = (tmp_path / kind / "README.md").read_text()
        assert all(threshold.sentence() in card for threshold in expected.values())
    place = str(tmp_path / "index")
    assert main(["index", str(run), str(held.paths[0].parent), "--out", place]) == 0
    with open_index(place) as index:
        assert thresholds_of(index) == expected
    agglomerative = ["--method", "agglomerative", "--links", "false", "--out", str(tmp_path / "clusters")]
    assert main(["cluster", place, *agglomerative]) == 0  # down to the model's threshold
    with Collection.open(tmp_path / "index", device="cpu") as collection:
        assert collection.thresholds == expected


def test_classes_that_came_since_the_training_take_no_part_and_without_a_kept_split_are_refused(
    trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config = load(run / "config.yaml")
    photographs = shutil.copytree(config.data.name, tmp_path / "photographs")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(config.data.name, str(photographs)))
    assert len(labelled_of_run(run, device="cpu").labels) == 8
    for number in range(8):
        shutil.copytree(photographs / "class_0", photographs / f"class_0_{number}")
    before, now = labelled_of_run(trained, device="cpu"), labelled_of_run(run, device="cpu")
    np.testing.assert_array_equal(now.vectors, before.vectors)
    assert now.labels.tolist() == before.labels.tolist()
    assert "8 classes added (class_0_0, class_0_1" in now.changes[0]
    (run / "fingerprint.json").unlink()
    with pytest.raises(DataError, match=r"has changed since .* was trained"):
        labelled_of_run(run, device="cpu")


def test_an_export_is_calibrated_on_other_data_and_its_card_says_so(
    exports: Path, tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(exports / "onnx", tmp_path / "model")
    other = shutil.copytree(photographs, tmp_path / "others")
    for data, sentence in (([], "pass --data"), (["--data", str(photographs)], "was trained on photographs")):
        assert main(["calibrate", str(model), "--precision", "0.4", *data]) == 2
        assert sentence in capsys.readouterr().err
    assert "embex calibrate" in (model / "README.md").read_text()
    (other / "class_1" / "2.jpg").write_bytes(b"no image")
    assert main(["calibrate", str(model), "--precision", "0.4", "--data", str(other)]) == 1
    captured = capsys.readouterr()
    assert f"skipped {other}/class_1/2.jpg" in captured.err
    thresholds = Embedder.load(model).thresholds
    files = [
        path for path in sorted(other.rglob("class_[0-3]/*.jpg")) if path.name + path.parent.name != "2.jpgclass_1"
    ]
    labels = np.array([int(path.parent.name[-1]) for path in files])
    rows = Embedder.load(model).embed(files)
    expected = calibrate(Labelled(rows, labels, "the training split of others"), Goal(precision=0.4)).thresholds
    assert thresholds == expected
    for threshold in expected.values():
        assert threshold.sentence() in (model / "README.md").read_text()


def test_an_index_is_calibrated_on_its_labelled_items_and_keeps_it(
    exports: Path, photographs: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(exports / "onnx"), str(photographs), "--out", place]) == 0
    assert "known or unknown: a query is known from a similarity of" in capsys.readouterr().out
    assert main(["calibrate", place, "--false_alarm_rate", "0.4", "--seed", "5"]) == 0
    files = sorted(photographs.rglob("class_*/*.jpg"))
    labels = np.array([int(path.parent.name[-1]) for path in files])
    with Collection.open(place) as collection:
        rows = np.concatenate([vectors for _, vectors in collection.index.batches()])
        np.testing.assert_allclose(rows, collection.embedder.embed(files), atol=1e-5)
        goal = Goal(false_alarm_rate=0.4)
        assert collection.thresholds == calibrate(Labelled(rows, labels, "the index itself"), goal, seed=5).thresholds
    capsys.readouterr()
    assert main(["info", place]) == 0
    assert "on 32 images of 8 classes of the index itself" in capsys.readouterr().out
    assert main(["calibrate", place, "--precision", "0.9", "--data", "glyphs"]) == 2
    assert "an index is calibrated on its own items" in capsys.readouterr().err


def test_an_index_with_labels_of_few_classes_has_no_threshold_of_its_own(
    exports: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "index")
    assert main(["index", str(exports / "onnx"), str(photographs), "--out", place]) == 0
    assert main(["add", place, str(photographs / "class_0"), "--labels", "none"]) == 0
    assert main(["calibrate", place, "--false_alarm_rate", "0.4"]) == 1
    captured = capsys.readouterr()
    reason = "the index has labels of 7 classes, too few for a threshold of its own, which needs 8"
    assert f"no threshold for 'known or unknown': {reason}" in captured.err
    assert main(["search", place, str(photographs / "class_0" / "0.jpg")]) == 0
    assert f"Known or unknown: {reason}." in capsys.readouterr().out


def test_without_held_out_classes_or_with_its_own_data_a_run_is_refused(
    trained: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    assert main(["calibrate", str(run), "--precision", "0.4", "--data", str(photographs)]) == 2
    assert "omit --data to use the classes that it held out" in capsys.readouterr().err
    (run / "config.yaml").write_text(config.replace("protocol: validation", "protocol: last"))
    assert main(["calibrate", str(run), "--precision", "0.4"]) == 2
    assert "which holds out no classes; pass --data" in capsys.readouterr().err
    assert main(["calibrate", str(run), "--precision", "0.4", "--data", str(photographs)]) == 2
    assert "pass images of other classes" in capsys.readouterr().err
    assert not (run / "thresholds.json").exists()
    other = shutil.copytree(photographs, tmp_path / "others")
    out = tmp_path / "mine.json"
    assert main(["calibrate", str(run), "--precision", "0.4", "--data", str(other), "--out", str(out)]) == 0
    assert (
        json.loads(out.read_text())["same or not"]["data"] == "16 images of 4 classes of the training split of others"
    )
    assert not (run / "thresholds.json").exists()


def test_a_threshold_says_on_what_it_was_measured_and_older_ones_can_be_read() -> None:
    threshold = Threshold(0.5, "same or not", "precision", 0.9, 0.95, 0.5, 10, 90, "birds")
    assert Threshold.from_json(threshold.to_json()) == threshold
    content = json.loads(threshold.to_json())
    del content["data"]
    assert Threshold.from_json(json.dumps(content)).data is None
    with pytest.raises(InvalidInput, match="data of the threshold is 3"):
        Threshold.from_json(json.dumps(content | {"data": 3}))
