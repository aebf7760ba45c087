"""embex data prepare, and the commands that take what it makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.inference.indexing import index_images
from embedding_expansion.retrieval.index import open_index


@pytest.fixture(scope="module")
def photos(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs and a broken one, beside which they are shrunk."""
    folder = tmp_path_factory.mktemp("prepared") / "photos"
    shutil.copytree(photographs, folder)
    (folder / "class_1" / "broken.jpg").write_bytes(b"broken")
    assert main(["data", "prepare", str(folder), "--size", "16", "--workers", "0"]) == 1
    return folder


def small(photos: Path) -> str:
    return f"{photos}-16"


def test_it_says_what_it_has_done_and_what_is_next(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", str(photos), "--size", "16", "--workers", "0"]) == 1
    captured = capsys.readouterr()
    assert f"{small(photos)}: photos, images: train 16, test 16; 0 shrunk, 32 were there" in captured.out
    assert f"short side of 16 pixels, JPEG quality 95, from {photos}; " in captured.out
    assert f"to train on it: embex train --data {small(photos)}" in captured.out
    assert f"left out: the image {photos / 'class_1' / 'broken.jpg'} cannot be decoded" in captured.err
    assert main(["data", small(photos), "check"]) == 0
    assert f"short side of 16 pixels, JPEG quality 95, from {photos}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nothing-here", "there is no data set (nor a folder of class folders) named"),
        ("missing/folder", "there is no folder or file missing/folder"),
        ("", "data"),
        ("PHOTOS --size 17 --out PHOTOS-16", "was prepared from"),
        ("PHOTOS --size big", "size"),
        ("PHOTOS --quality 101", "quality is 101"),
        ("PHOTOS-16", "is already prepared"),
    ],
)
def test_nonsense_is_answered_in_one_line(
    photos: Path, arguments: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", *arguments.replace("PHOTOS", str(photos)).split()]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_an_index_and_embeddings_name_the_originals(photos: Path, trained: Path, tmp_path: Path) -> None:
    originals = sorted(str(path) for path in photos.rglob("*.png"))
    report = index_images(trained, [small(photos)], tmp_path / "index", device="cpu")
    assert (report.new, report.broken) == (32, {})
    with open_index(tmp_path / "index") as index:
        items = [item for some in index.items() for item in some]
    assert sorted(item.path for item in items) == originals
    assert {item.label for item in items} == {f"class_{number}" for number in range(8)}
    assert index_images(trained, [small(photos)], tmp_path / "index", device="cpu").unchanged == 32
    assert main(["embed", str(trained), small(photos), "--out", str(tmp_path / "all.npz"), "--device", "cpu"]) == 0
    with np.load(tmp_path / "all.npz") as found:
        assert found["paths"].tolist() == originals


def test_evaluation_takes_it(photos: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--data", small(photos)]) == 0
    assert "photos" in capsys.readouterr().out
