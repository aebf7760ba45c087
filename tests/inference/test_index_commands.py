"""embex index, add, remove and info as a user meets them: what is printed, what is refused, what it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.retrieval.index import open_index
from inference.contents import contents


@pytest.fixture
def photos(photographs: Path, tmp_path: Path) -> Path:
    """A copy of 3 classes that a test may change."""
    for name in ("class_0", "class_1", "class_2"):
        shutil.copytree(photographs / name, tmp_path / "photos" / name)
    return tmp_path / "photos"


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_broken_images_are_named_and_left_out_and_told_by_the_status(
    exports: Path, photos: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = photos / "class_1" / "noise.jpg"
    noise.write_bytes(np.random.default_rng(0).bytes(5_000_000))
    for out, summary in (("index", "12 new, 0 changed, 0 unchanged"), ("add", "0 new, 0 changed, 12 unchanged")):
        given = [str(exports / "onnx"), str(photos), "--out", place] if out == "index" else [place, str(photos)]
        assert main([out, *given]) == 1
        shown, complaint = said(capsys)
        assert f"12 images in {shown.split(' in ')[1].split(':')[0]}" in shown
        assert summary in shown
        assert "search: flat: 12 x 6 numbers are searched exactly in a moment" in shown
        assert complaint.count("\n") == 1
        assert complaint.startswith(f"embex: skipped {noise}: ")


def test_the_measured_recall_of_a_graph_is_printed(
    exports: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = str(tmp_path / "index")
    given = ["--out", index, "--kind", "hnsw", "--precision", "float16"]
    assert main(["index", str(exports / "onnx"), str(photos), *given]) == 0
    shown = said(capsys)[0]
    assert "search: hnsw: as asked for" in shown
    with open_index(index) as opened:
        assert opened.recall is not None
        assert f"recall: {opened.recall.value:.3f} of the 10 nearest neighbours of an exact search" in shown
        assert "measured on 12 images" in shown


def test_a_filtered_search_of_a_graph_prints_what_there_is(
    exports: Path, photos: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(exports / "onnx"), str(photos), "--out", place, "--kind", "hnsw"]) == 0
    image = str(photos / "class_0" / "0.jpg")
    for options, paths in (
        (["--label", "class_1"], [f"{photos}/class_1/{number}.jpg" for number in range(4)]),
        (["--label", "no such"], []),
        (["--prefix", str(photos / "class_2" / "3")], [f"{photos}/class_2/3.jpg"]),
        ([], [str(path) for path in photos.rglob("*.jpg")]),
    ):
        capsys.readouterr()
        assert main(["search", place, image, "-k", "50", *options]) == 0
        shown, complaint = said(capsys)
        assert complaint == ""
        assert sorted(re.findall(rf"(?m){re.escape(str(photos))}/\S+$", shown)[1:]) == sorted(paths)
        assert ("no image in the index has this label and prefix" in shown) == (not paths)


def test_a_table_gives_labels_and_metadata_and_its_stray_rows_are_told(
    exports: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    rows = [
        "path,label,year,place,width",
        f"{photos}/class_0/0.jpg,wren,2011,York,9",
        "photos/class_0/1.jpg,gull,7.5,,",
    ]
    table.write_text("\n".join([*rows, "photos/class_0/elsewhere.jpg,owl,,,"]) + "\n", encoding="utf-8")
    index = str(tmp_path / "index")
    assert main(["index", str(exports / "onnx"), str(photos), "--out", index, "--labels", str(table)]) == 0
    complaint = said(capsys)[1]
    assert "10 images have no label, because the table does not list them" in complaint
    assert f"1 rows of the table match none of these images, the first: {photos}/class_0/elsewhere.jpg" in complaint
    found = contents(index)
    assert len(found) == 12
    label, metadata, *_ = found[f"{photos}/class_0/0.jpg"]
    assert (label, metadata["year"], metadata["place"], metadata["width"]) == ("wren", 2011, "York", 41)
    label, metadata, *_ = found[f"{photos}/class_0/1.jpg"]
    assert (label, metadata["year"], "place" in metadata) == ("gull", 7.5, False)
    assert found[f"{photos}/class_1/0.jpg"][0] is None


TABLES = [
    ("path\n", "has no column 'label'"),
    ("path,label\nphotos/none.jpg,a\n", "none of the 1 paths in the table is one of the images"),
    ("path,label\n,a\n", "line 2 of"),
    ("path,label\nphotos/class_0/0.jpg,a\nphotos/../photos/class_0/0.jpg,b\n", "twice, in lines 2 and 3"),
    ("path,label\nphotos/class_0/0.jpg,a,b\n", "has 3 fields, but the first line names 2 columns"),
    ("path,label\nphotos/class_0/0.jpg,\xe9\n", "is not text in UTF-8"),
]


@pytest.mark.parametrize(("text", "sentence"), TABLES)
def test_a_wrong_table_is_one_line_and_makes_no_index(
    text: str, sentence: str, exports: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table.csv").write_text(text, encoding="latin-1")
    given = ["--out", str(tmp_path / "index"), "--labels", str(tmp_path / "table.csv")]
    assert main(["index", str(exports / "onnx"), str(photos), *given]) == 2
    complaint = said(capsys)[1]
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert not (tmp_path / "index").exists()


def test_mistakes_are_one_line_and_make_no_index(
    trained: Path, exports: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "none").mkdir()
    out, onnx = str(tmp_path / "index"), str(exports / "onnx")
    for given, sentence in (
        ([onnx, str(tmp_path / "none"), "--out", out], "there is no image in"),
        ([onnx, str(tmp_path / "gone"), "--out", out], "there is no file or folder"),
        ([onnx, str(photos), "--out", str(tmp_path / "file")], "cannot be made a folder for an index"),
        ([onnx, str(photos), "--out", str(tmp_path / "full")], "is not empty and holds no index"),
        ([onnx, str(photos), "--out", "postgresql://nobody:secret@127.0.0.1:1/none"], "cannot be reached"),
        ([onnx, str(photos), "--out", "mysql://host/images"], "location is a URL of 'mysql'"),
        ([onnx, str(photos), "--out", out, "--kind", "flt"], "did you mean 'flat'"),
        ([onnx, str(photos), "--out", out, "--precision", "float8"], "did you mean 'float"),
        ([onnx, str(photos), "--out", out, "--labels", "foldr"], "labels is 'foldr'; pass folder, none, or a .csv"),
        ([onnx, str(photos), "--out", out, "--batch_size", "0"], "batch_size is 0"),
        ([str(exports / "torch"), str(photos), "--out", out], "can execute code"),
        ([str(photos), str(photos), "--out", out], "config.yaml"),
        ([str(tmp_path / "gone"), str(photos), "--out", out], "gone, and no backbone is named so; pass a run folder, "),
    ):
        assert main(["index", *given]) == 2, sentence
        complaint = said(capsys)[1]
        assert sentence in complaint
        assert complaint.count("\n") == 1
        assert "secret" not in complaint
        assert not (tmp_path / "index").exists()


def test_a_run_on_vectors_is_refused_with_what_to_use_instead_and_embeds_vectors(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw, run = np.random.default_rng(0), str(tmp_path / "run")
    labels = np.repeat(np.arange(12), 4)
    features = (draw.normal(size=(12, 5))[labels] + 0.1 * draw.normal(size=(48, 5))).astype(np.float32)
    np.savez(tmp_path / "some.npz", features=features, labels=labels)
    options = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 2 --threads 1 --device cpu"
    given = ["--data", str(tmp_path / "some.npz"), *options.split(), "--model.dim", "3", "--out", run]
    assert main(["train", *given]) == 0
    capsys.readouterr()
    for command in (
        ["index", run, str(photos), "--out", str(tmp_path / "index")],
        ["export", run, "--out", str(tmp_path / "export")],
        ["embed", run, str(photos)],
    ):
        assert main(command) == 2
        assert f"embeds vectors, not images; embed vectors with embex embed {run} FEATURES.npz" in said(capsys)[1]
    np.savez(tmp_path / "unlabelled.npz", features=features)
    for name, others in (("some", {"labels"}), ("unlabelled", set())):
        out = tmp_path / f"{name}-embedded.npz"
        assert main(["embed", run, str(tmp_path / f"{name}.npz"), "--out", str(out)]) == 0
        with np.load(out) as stored:
            assert set(stored.files) == {"embeddings"} | others
            rows = stored["embeddings"]
    from safetensors.numpy import load_file

    weights = load_file(Path(run) / "model.safetensors")
    expected = (features - weights["mean"].ravel()) / weights["std"].ravel() @ weights["head.weight"].T
    expected += weights["head.bias"]
    np.testing.assert_allclose(rows, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    np.savez(tmp_path / "wide.npz", features=np.ones((2, 6)))
    assert main(["embed", run, str(tmp_path / "wide.npz")]) == 2
    assert "takes vectors of 5 dimensions" in said(capsys)[1]


def test_images_are_removed_by_path_folder_label_or_because_they_are_gone(
    exports: Path, photos: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["index", str(exports / "onnx"), str(photos), "--out", place]) == 0
    shutil.copytree(photos / "class_2", photos / "class_22")
    assert main(["add", place, str(photos / "class_22"), "--labels", "none"]) == 0
    monkeypatch.chdir(photos)
    (photos / "class_0" / "3.jpg").unlink()
    (photos / "class_1" / "3.jpg").unlink()
    everything = set(contents(place))
    assert len(everything) == 16
    for given, gone, status in (
        (["class_0/0.jpg", "class_0/none.jpg"], {"class_0/0.jpg"}, 1),
        (["--missing"], {"class_0/3.jpg", "class_1/3.jpg"}, 0),
        (["--label", "class_1"], {f"class_1/{k}.jpg" for k in range(3)}, 0),
        (["--prefix", "class_2"], {f"class_2/{k}.jpg" for k in range(4)}, 0),
        (["--label", "no such"], set(), 0),
    ):
        capsys.readouterr()
        assert main(["remove", place, *given, "--dry_run"]) == status
        assert f"{len(gone)} images would be removed, {len(everything) - len(gone)} left" in said(capsys)[0]
        assert set(contents(place)) == everything
        assert main(["remove", place, *given]) == status
        everything -= {str(photos / name) for name in gone}
        assert f"{len(gone)} images removed, {len(everything)} left" in said(capsys)[0]
        assert set(contents(place)) == everything


def test_where_all_files_are_gone_nothing_is_removed(
    exports: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = str(tmp_path / "index")
    assert main(["index", str(exports / "onnx"), str(photos), "--out", index]) == 0
    photos.rename(tmp_path / "away")
    assert main(["remove", index, "--missing"]) == 2
    assert "the files of all 12 images are missing" in said(capsys)[1]
    for given in ([], ["--missing", "--label", "x"], ["x.jpg", "--prefix", "y"]):
        assert main(["remove", index, *given]) == 2
        assert "pass exactly one of paths, --prefix, --label, --missing, --unfinished" in said(capsys)[1]
    assert len(contents(index)) == 12


def test_an_unfinished_load_is_told_of_and_can_be_given_up(
    exports: Path, photos: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["index", str(exports / "onnx"), str(photos / "class_0"), "--out", place]) == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("embedding_expansion.retrieval.index.folder.store.FolderStore.publish", interrupted)
        patch.setattr("embedding_expansion.retrieval.index.postgres.store.PostgresStore.publish", interrupted)
        capsys.readouterr()
        assert main(["add", place, str(photos / "class_1")]) == 130
        assert "the embedded images are saved; run the same command again to continue" in said(capsys)[1]
    assert main(["info", place]) == 0
    shown, complaint = said(capsys)
    assert "4 images, 0 with a label, vectors with 6 dimensions in float32" in shown
    assert "model: conv4 trained on photographs" in shown
    assert re.fullmatch(
        r"embex: an unfinished load holds 4 images: class_1, [0-9a-f]{12}; run its command again .*\n", complaint
    )
    assert main(["remove", place, "--unfinished", "--dry_run"]) == 0
    assert main(["remove", place, "--unfinished"]) == 0
    assert said(capsys)[0].count("4 images") == 2
    with open_index(place) as index:
        assert (index.unfinished(), index.count()) == ({}, 4)


PROGRAM = """
import sys
from embedding_expansion.app.cli import main
model, photos, more, index = sys.argv[1:]
assert main(["index", model, photos, "--out", index]) == 0
assert main(["add", index, more]) == 0
assert main(["remove", index, "--prefix", more]) == 0
assert main(["info", index]) == 0
print({"torch", "torchvision", "timm", "sklearn", "scipy"} & set(sys.modules))
"""


def test_an_index_with_an_onnx_model_needs_neither_torch_nor_what_stands_on_it(
    exports: Path, photos: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, exports / "onnx", photos / "class_0", photos / "class_1", tmp_path / "i"]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=True)
    assert finished.stdout.endswith("\nset()\n")


def test_thresholds_of_the_model_are_in_the_index_and_shown(
    exports: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, index = tmp_path / "model", str(tmp_path / "index")
    shutil.copytree(exports / "onnx", model)
    assert main(["index", str(model), str(photos), "--out", index]) == 0
    threshold = {"value": 0.7, "task": "same or not", "goal": "precision", "wanted": 0.9, "reached": 0.95}
    threshold |= {"hit_rate": 0.5, "positives": 40, "negatives": 400}
    (model / "thresholds.json").write_text(json.dumps({"same or not": threshold}))
    assert main(["index", str(model), str(photos), "--out", index]) == 0  # brings along what was calibrated since
    capsys.readouterr()
    assert main(["info", index]) == 0
    assert "same or not: from 0.7000 on, with a precision of 0.9500" in said(capsys)[0]
