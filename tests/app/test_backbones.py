"""Commands on a backbone as it comes, in place of a run; and training without a head."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from embedding_expansion import Embedder
from embedding_expansion.app.cli import main
from embedding_expansion.data.images import read_image
from embedding_expansion.inference.thresholds import read_thresholds
from embedding_expansion.retrieval.index import open_index
from embedding_expansion.retrieval.metrics import retrieval_metrics

NAME = "timm/test_resnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    torch.manual_seed(5)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture
def files(photographs: Path) -> list[Path]:
    """All image files."""
    return sorted(path for path in photographs.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def options(weights: Path) -> list[str]:
    given = f"--weights {weights} --mean [0.4,0.4,0.4] --std [0.3,0.3,0.3] --image_size 48"
    return given.split()


@pytest.fixture(scope="module")
def embedder(weights: Path) -> Embedder:
    return Embedder.from_backbone(NAME, weights=weights, mean=[0.4] * 3, std=[0.3] * 3, image_size=48, device="cpu")


@pytest.fixture
def unlabelled(files: list[Path], tmp_path: Path) -> Path:
    """Images directly in a folder, and deeper ones."""
    (tmp_path / "photos" / "a" / "b").mkdir(parents=True)
    for number, file in enumerate(files[:12]):
        folder = tmp_path / "photos" / ("a/b" if number % 3 == 0 else "")
        (folder / f"{number}.png").write_bytes(file.read_bytes())
    return tmp_path / "photos"


def test_evaluate_measures_the_features_with_the_given_input(
    options: list[str], weights: Path, photographs: Path, files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "measures.json"
    assert main(["evaluate", NAME, "--data", str(photographs), *options, "--out", str(out)]) == 0
    network = timm.create_model("test_resnet", checkpoint_path=str(weights)).eval()
    network.reset_classifier(0)
    tested, rows = files[16:], []  # the second half of the classes
    for file in tested:
        pixels = read_image(file).float()[None]
        height, width = pixels.shape[-2:]
        short = int(48 / 0.95)
        size = [int(short * side / min(height, width)) for side in (height, width)]
        larger = functional.interpolate(pixels, size, mode="bilinear", antialias=True).round().clamp(0, 255)
        top, left = (round((side - 48) / 2) for side in size)
        square = larger[:, :, top : top + 48, left : left + 48]
        with torch.no_grad():
            rows.append(network((square / 255 - 0.4) / 0.3))
    expected = retrieval_metrics(torch.cat(rows), np.arange(16) // 4)
    found = json.loads(out.read_text())
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.02)


def test_embed_and_cluster_take_a_backbone_in_place_of_a_run(
    options: list[str], embedder: Embedder, unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", NAME, str(unlabelled), *options, "--out", str(tmp_path / "rows.npz")]) == 0
    with np.load(tmp_path / "rows.npz") as stored:
        assert np.array_equal(stored["embeddings"], embedder.embed([str(path) for path in stored["paths"]]))
    given = ["cluster", str(unlabelled), "--model", NAME, *options, "--k", "3", "--out", str(tmp_path / "groups")]
    assert main(given) == 0
    assert (tmp_path / "groups" / "clusters.csv").read_text().count("\n") == 13
    assert capsys.readouterr().err == ""


def test_an_index_of_a_backbone_serves_every_command_from_then_on(
    options: list[str], unlabelled: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = str(tmp_path / "index")
    assert main(["index", NAME, str(unlabelled), *options, "--labels", "none", "--out", index]) == 0
    assert main(["add", index, str(files[20])]) == 0
    capsys.readouterr()
    assert main(["info", index]) == 0
    assert f"model: {NAME} as it comes, weights: a file net.safetensors" in capsys.readouterr().out
    assert main(["search", index, str(unlabelled / "a" / "b" / "3.png"), "-k", "1"]) == 0
    assert re.search(r"1 +1\.0000 .*3\.png", capsys.readouterr().out)
    assert main(["duplicates", index, "--threshold", "1"]) == 0
    assert "13 images, all pairs compared" in capsys.readouterr().out
    assert main(["cluster", index, "--k", "2", "--out", str(tmp_path / "groups")]) == 0
    with open_index(index) as opened:
        assert opened.count({"label": None}) == 13


def test_an_exported_backbone_is_evaluated_and_calibrated_as_the_backbone(
    options: list[str], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export, data = str(tmp_path / "export"), ["--data", str(photographs)]
    assert main(["export", NAME, *options, "--format", "safetensors", "--out", export]) == 0
    for number, given in enumerate(([NAME, *options], [export])):
        assert main(["evaluate", *given, *data, "--flip", "true", "--out", str(tmp_path / f"{number}.json")]) == 0
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()
    goal = ["--false_alarm_rate", "0.2", "--out", str(tmp_path / "thresholds.json")]
    assert main(["calibrate", NAME, *options, *data, *goal]) in (0, 1)
    stored = read_thresholds(tmp_path)
    assert main(["calibrate", export, *data, *goal[:2]]) in (0, 1)
    assert read_thresholds(Path(export)) == stored != {}
    assert "Thresholds were calibrated" in (Path(export) / "README.md").read_text()


def test_what_was_assumed_goes_to_stderr_in_one_line(
    weights: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["embed", NAME, str(files[0]), "--weights", str(weights), "--out", str(tmp_path / "rows.npz")]
    assert main(given) == 0
    said = capsys.readouterr()
    assert said.err.startswith("embex: net.safetensors does not say how its images are normalised; assumed mean")
    assert said.err.count("\n") == 1
    assert "normalised" not in said.out


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            ["embed", "timm/test_resnt", "{file}"],
            "there is no folder timm/test_resnt, and there is no timm backbone named",
        ),
        (
            ["embed", "runs/gone", "{file}"],
            "there is no folder runs/gone, and no backbone is named so; pass a run folder",
        ),
        (["index", NAME, "{photos}", "--out", "{new}"], "has only random weights; pass --pretrained true or --weights"),
        (["index", "conv4", "{photos}", "--out", "{new}"], "conv4 has only random weights; pass --weights FILE"),
        (["index", "{trained}", "{photos}", "--out", "{new}", "--pooling", "gem"], "--pooling is for backbones, but"),
        (["embed", "{trained}", "{file}", "--image_size", "64"], "--image_size is for backbones, but"),
        (["cluster", "{photos}", "--out", "{new}"], "pass --model with a run folder, an export folder or a backbone"),
        (["calibrate", NAME, "--data", "{photos}", "--precision", "0.9"], "is no folder to store the thresholds in"),
        (["export", NAME, "--weights", "{file}", "--out", "{new}"], "cannot be read as safetensors"),
        (["embed", NAME, "{file}", "--weights", "{new}"], "there is no file"),
        (["evaluate", NAME, "--mean", "[0.5,0.5]"], "mean has 2 values"),
    ],
)
def test_mistakes_are_one_line(
    given: list[str],
    sentence: str,
    trained: Path,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"file": photographs / "class_0" / "0.png", "photos": photographs, "trained": trained, "new": "new"}
    assert main([argument.format(**names) for argument in given]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_run_without_a_head_trains_the_backbone_itself(
    photographs: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    sizes = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --data.image_size 16 --data.workers 0 --steps 2"
    rest = "--model.dim none --memory 8 --miner distance_weighted --loss triplet --measure_before false --device cpu"
    assert main(["train", "--data", str(photographs), *sizes.split(), *rest.split(), "--out", str(run)]) == 0
    assert "conv4, 64 dimensions" in capsys.readouterr().out
    assert Embedder.load(run, device="cpu").embed(files[:2]).shape == (2, 64)
    assert main(["evaluate", str(run), "--rerank.whiten", "65"]) == 2
    assert "the embeddings of" in capsys.readouterr().err
    frozen = [
        "train",
        "--data",
        str(photographs),
        *sizes.split(),
        "--model.dim",
        "none",
        "--model.freeze_backbone",
        "true",
    ]
    assert main([*frozen, "--out", str(tmp_path / "frozen")]) == 2
    assert "nothing would learn; pass only one of them" in capsys.readouterr().err
