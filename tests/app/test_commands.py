"""The commands on real files: train by short options, evaluate, embed, data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_expansion.app.cli import main
from embedding_expansion.data.images import read_image
from embedding_expansion.data.transforms import test_transform
from embedding_expansion.errors import RunError
from embedding_expansion.model.trained import load_trained
from embedding_expansion.runs.config import load
from embedding_expansion.runs.options import DataConfig


def test_the_short_options_are_those_of_the_sections(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        "--loss triplet --loss.margin 0.3 --expansion none --model conv4 --steps 1 --seed 3 --measure_before false"
    )
    sizes = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --data.image_size 16 --data.workers 0"
    assert main(["train", "--data", str(photographs), *options.split(), *sizes.split(), "--out", str(run)]) == 0
    config = load(run / "config.yaml")
    assert config.loss == {"name": "triplet", "margin": 0.3}
    assert (config.expansion.n, config.model.backbone, config.seed) == ("none", "conv4", 3)
    assert config.data.name == str(photographs)


def test_evaluate_gives_the_measures_of_the_run(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained), "--out", str(tmp_path / "measures.json")]) == 0
    again = json.loads((tmp_path / "measures.json").read_text())
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {"recall_at_1", "map_at_r", "nmi", "f1", "ami", "data"} <= again.keys()
    assert again == {name: metrics[name] for name in again}
    assert f"Recall@1 {metrics['recall_at_1']:.3f}" in capsys.readouterr().out


def test_evaluate_takes_another_data_set(trained: Path, photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--data", str(photographs)]) == 0
    assert photographs.name in capsys.readouterr().out


def test_evaluate_applies_root_and_part_to_the_data_set_of_the_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained), "--root", str(tmp_path)]) == 2
    assert f"root is {tmp_path}" in capsys.readouterr().err  # the run's data set is a path, which needs no root
    asked = []

    def measured(path: Path, data: DataConfig, steps: object, *, flip: bool | None) -> dict[str, object]:
        assert flip is None
        asked.append(data)
        raise RunError("enough")

    monkeypatch.setattr("embedding_expansion.training.trained.evaluate", measured)
    own = load(trained / "config.yaml").data
    main(["evaluate", str(trained)])
    main(["evaluate", str(trained), "--root", "/x", "--part", "true"])
    main(["evaluate", str(trained), "--data", "sop", "--part", "true"])
    assert asked == [own, dataclasses.replace(own, root="/x", part=True), DataConfig(name="sop", part=True)]


def test_an_output_without_a_place_is_refused_before_the_work(
    trained: Path,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "embedding_expansion.model.network.EmbeddingModel.forward", lambda *_: pytest.fail("work was done")
    )
    for out in (str(tmp_path / "nowhere" / "x"), str(tmp_path)):
        assert main(["evaluate", str(trained), "--out", out]) == 2
        assert main(["embed", str(trained), str(photographs), "--out", out]) == 2
        assert capsys.readouterr().err.count(f"embex: {out} ") == 2


def test_evaluate_of_a_run_without_final_weights_says_how_to_finish_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"embex train --resume {tmp_path}" in capsys.readouterr().err


def test_embed_writes_the_models_embeddings_and_the_paths(trained: Path, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    one = photographs / "class_3" / "2.png"
    assert main(["embed", str(trained), str(photographs / "class_0"), str(one), "--out", str(out)]) == 0
    with np.load(out, allow_pickle=False) as stored:
        embeddings, paths = stored["embeddings"], stored["paths"]
    assert paths.tolist() == [*(str(photographs / "class_0" / f"{k}.png") for k in range(4)), str(one)]
    found = load_trained(trained)
    transform = test_transform(found.preprocessing.size, str(found.config.data.transform))
    expected = found.model.embed(torch.stack([transform(read_image(Path(path))) for path in paths]))
    np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-6)


def test_embed_names_a_broken_image_leaves_it_out_and_tells_by_its_status(
    trained: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "good.png").write_bytes((photographs / "class_0" / "0.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no image either, and not named like one")
    out = tmp_path / "vectors.npz"
    assert main(["embed", str(trained), str(tmp_path), "--out", str(out)]) == 1
    assert str(tmp_path / "broken.jpg") in capsys.readouterr().err
    with np.load(out, allow_pickle=False) as stored:
        assert stored["paths"].tolist() == [str(tmp_path / "good.png")]
        assert stored["embeddings"].shape == (1, 6)


def test_embed_refuses_what_is_not_there_or_holds_no_image(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(trained), str(tmp_path / "nowhere")]) == 2
    assert main(["embed", str(trained), str(tmp_path)]) == 2
    assert main(["embed", str(trained), str(trained / "config.yaml"), "--out", str(tmp_path / "x.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 3
    assert not (tmp_path / "x.npz").exists()


def test_data_lists_every_set_and_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["glyphs", "omniglot", "cub", "cars", "sop", "inshop"]
    assert "comes with the package" in lines[0]


def test_data_describes_a_set_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "cars", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for words in ("CARS196", "8,054", str(tmp_path), "licence"):
        assert words in said


def test_data_checks_a_folder_and_tells_of_broken_images_by_its_status(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    assert main(["data", str(photographs), "check"]) == 0
    assert "train: 4 classes, 16 images" in capsys.readouterr().out
    copy = tmp_path / "photographs"
    shutil.copytree(photographs, copy)
    (copy / "class_5" / "1.png").write_bytes(b"no image")
    assert main(["data", str(copy), "check"]) == 1
    assert str(copy / "class_5" / "1.png") in capsys.readouterr().out
