"""A set that was shrunk once is the same set: its splits, classes and names, with pixels at the size asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.decoding import decode
from embedding_expansion.data.finding import find_images
from embedding_expansion.data.images import Dataset
from embedding_expansion.data.prepared import MANIFEST, Prepared
from embedding_expansion.data.preparing import Preparation, default_folder, prepare_images
from embedding_expansion.errors import DataError, EmbeddingExpansionError, InvalidInput, RunError

SIZE = 32
CLASSES = ("ant", "bee", "cat", "dog")


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (96, 64), **options: Any) -> Path:
    """A smooth random picture of a width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


def shrink(data: Path | str, out: Path, **options: Any) -> Preparation:
    return prepare_images(str(data), out, **({"size": SIZE, "workers": 0} | options))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four classes of three images each."""
    for number, name in enumerate(CLASSES):
        for image in range(3):
            draw(tmp_path / "photos" / name / f"{image}.jpg", 10 * number + image)
    return tmp_path / "photos"


def content(dataset: Dataset) -> list[Any]:
    """What a prepared set keeps of both splits."""
    return [dataset.name, dataset.recall_at, dataset.transform] + [
        (
            images.class_names,
            images.labels.tolist(),
            [images.called(at) for at in range(len(images))],
            None if images.is_query is None else images.is_query.tolist(),
            None if images.is_gallery is None else images.is_gallery.tolist(),
        )
        for images in (dataset.train, dataset.test)
    ]


def as_halves(photos: Path) -> Path:
    return photos


def as_splits(photos: Path) -> Path:
    for at, name in enumerate(CLASSES):
        (photos / ("test" if at % 2 else "train")).mkdir(exist_ok=True)
        (photos / name).rename(photos / ("test" if at % 2 else "train") / name)
    return photos


def as_table(photos: Path) -> Path:
    """Numbers as labels, marks, an image elsewhere, and two classes that are in both splits."""
    rows = ["path,label,split,is_query,is_gallery"]
    for at, name in enumerate(("dog", "cat", "bee", "ant")):
        for image in range(3):
            split, marks = ("train", ",") if image == 2 else ("validation", f"{image == 0},{image == 1}")
            rows.append(f"photos/{name}/{image}.jpg,{20 - 9 * at},{split},{marks}")
    draw(photos.parent / "elsewhere" / "0.jpg")
    rows.append("elsewhere/0.jpg,20,train,,")
    (photos.parent / "list.csv").write_text("\n".join(rows))
    return photos.parent / "list.csv"


def as_birds(photos: Path) -> Path:
    top = photos.parent / "birds"
    top.mkdir()
    photos.rename(top / "images")
    files = [f"{name}/{image}.jpg" for name in CLASSES for image in range(3)]
    (top / "images.txt").write_text("".join(f"{at} {file}\n" for at, file in enumerate(files, start=1)))
    (top / "classes.txt").write_text("".join(f"{at} {name}\n" for at, name in enumerate(CLASSES, start=1)))
    return top


@pytest.mark.parametrize("layout", [as_halves, as_splits, as_table, as_birds])
def test_every_layout_keeps_its_splits_classes_marks_and_names(
    photos: Path, tmp_path: Path, layout: Callable[[Path], Path]
) -> None:
    data, part = layout(photos), layout is as_birds
    shrink(data, tmp_path / "small", part=part)
    small, original = open_dataset(str(tmp_path / "small")), open_dataset(str(data), part=part)
    assert content(small) == content(original)
    for before, after in ((original.train, small.train), (original.test, small.test)):
        for at in range(len(before)):
            whole, shrunk = before.load(at), after.load(at)
            assert (tuple(shrunk.shape), tuple(whole.shape)) == ((3, SIZE, SIZE * 3 // 2), (3, 64, 96))
            mean = whole.float().reshape(3, SIZE, 2, SIZE * 3 // 2, 2).mean((2, 4))
            assert (shrunk - mean).abs().mean() < 4  # the picture of this image and of no other


def test_formats_small_images_and_turned_ones(photos: Path, tmp_path: Path) -> None:
    draw(photos / "ant" / "wide.png", size=(200, 50))
    draw(photos / "ant" / "wide.png.jpg", size=(100, 50))
    small = draw(photos / "bee" / "small.png", size=(40, SIZE))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    draw(photos / "bee" / "turned.JPG", size=(96, 64), exif=exif)
    made = shrink(photos, tmp_path / "small").prepared
    files = dict(made.images())
    assert files["ant/wide.png"] == "ant/wide.png.jpg.jpg"  # the name of another original is not taken
    assert decode(tmp_path / "small" / files["ant/wide.png"]).shape == (SIZE, 128, 3)
    assert (tmp_path / "small" / files["bee/small.png"]).read_bytes() == small.read_bytes()
    assert files["bee/small.png"] == "bee/small.png"
    assert decode(tmp_path / "small" / files["bee/turned.JPG"]).shape == (48, SIZE, 3)
    assert "wide.png" in [open_dataset(str(tmp_path / "small")).train.called(at) for at in range(9)]


def test_broken_images_are_named_and_the_others_are_shrunk(photos: Path, tmp_path: Path) -> None:
    (photos / "cat" / "1.jpg").write_bytes(b"no image")
    (photos / "dog" / "gone.jpg").symlink_to(tmp_path / "nothing")
    done = shrink(photos, tmp_path / "small", workers=2)
    assert sorted(done.prepared.broken) == ["cat/1.jpg", "dog/gone.jpg"]
    assert all(str(photos / name) in reason for name, reason in done.prepared.broken.items())
    assert (done.written, done.kept) == (11, 0)
    assert len(open_dataset(str(tmp_path / "small")).test) == 5
    draw(photos / "cat" / "1.jpg")  # repaired
    done = shrink(photos, tmp_path / "small")
    assert (done.written, done.kept, list(done.prepared.broken)) == (1, 11, ["dog/gone.jpg"])


def test_a_preparation_that_is_killed_goes_on_and_ends_with_the_same_files(photos: Path, tmp_path: Path) -> None:
    for image in range(3, 12):
        draw(photos / "ant" / f"{image}.jpg", image)
    out, whole = tmp_path / "small", tmp_path / "whole"

    def die(done: int, total: int) -> None:
        if done:
            (out / "ant" / ".partial-1").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        shrink(photos, out, progress=die)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    for use in (lambda: open_dataset(str(out)), lambda: find_images([out])):
        with pytest.raises(
            DataError, match=rf"small is not complete.*prepare {photos} --size {SIZE} --out {out} again"
        ):
            use()
    left = {path: path.stat().st_ino for path in out.rglob("*.jpg")}
    assert 0 < len(left) < 21
    done = shrink(photos, out)
    assert (done.kept, done.written) == (len(left), 21 - len(left))
    assert {path: path.stat().st_ino for path in left} == left
    shrink(photos, whole)
    assert tree(out) == tree(whole)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_has_changed_is_shrunk_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    shrink(photos, out)
    assert Prepared.read(out).changes() == ""
    draw(photos / "ant" / "0.jpg", 99)
    (photos / "bee" / "1.jpg").unlink()
    draw(photos / "cat" / "new.jpg", 7)
    assert "of the 12 originals" in Prepared.read(out).changes()
    assert "1 changed and 1 removed since they were shrunk (the first is ant/0.jpg)" in Prepared.read(out).changes()
    done = shrink(photos, out)
    assert (done.written, done.kept, done.removed) == (2, 10, 1)
    assert not (out / "bee" / "1.jpg").exists()
    assert Prepared.read(out).changes() == ""
    again = tmp_path / "again"
    shrink(photos, again)
    assert tree(out) == tree(again)
    shutil.rmtree(photos)
    assert Prepared.read(out).changes() == ""  # as on another machine
    assert len(open_dataset(str(out)).train) == 5


def test_an_original_of_the_same_time_but_another_size_has_changed(photos: Path, tmp_path: Path) -> None:
    shrink(photos, tmp_path / "small")
    time = (photos / "ant" / "0.jpg").stat().st_mtime_ns
    draw(photos / "ant" / "0.jpg", 5, size=(300, 200))
    os.utime(photos / "ant" / "0.jpg", ns=(time, time))
    assert shrink(photos, tmp_path / "small").written == 1


def test_images_are_found_under_the_names_of_their_originals(photos: Path, tmp_path: Path) -> None:
    draw(photos / "ant" / "drawn.png")
    shrink(photos, tmp_path / "small")
    found, whole = find_images([tmp_path / "small"]).files, find_images([photos]).files
    assert [(file.path, file.folder) for file in found] == [(file.path, file.folder) for file in whole]
    assert all(file.read.is_relative_to(tmp_path / "small") and file.read.is_file() for file in found)
    assert all(file.read == file.path for file in whole)
    shutil.rmtree(photos)
    assert [file.path for file in find_images([tmp_path / "small"]).files] == [file.read for file in found]


def test_what_cannot_be_prepared_is_refused_and_nothing_is_lost(photos: Path, tmp_path: Path) -> None:
    other = draw(tmp_path / "other" / "mine.jpg").parent
    np.savez(tmp_path / "rows.npz", embeddings=np.eye(4, dtype=np.float32), labels=np.arange(4) // 2)
    shrink(photos, tmp_path / "small")
    before = tree(tmp_path)
    cases: list[tuple[Path | str, Path, dict[str, Any], type[EmbeddingExpansionError], str]] = [
        (photos, other, {}, RunError, "other exists and is no prepared set"),
        (photos, other / "mine.jpg", {}, RunError, "exists and is no prepared set"),
        (photos, tmp_path / "a" / "b", {}, RunError, "cannot be made"),
        (photos, photos / "small", {}, InvalidInput, "whose images it would join"),
        (photos, tmp_path / "small", {"size": 16}, RunError, f"from {photos} with --size 32 --quality 95"),
        (tmp_path / "small", tmp_path / "new", {}, DataError, "is already prepared"),
        (tmp_path / "rows.npz", tmp_path / "new", {}, InvalidInput, "has vectors, so there is nothing to shrink"),
        (photos, tmp_path / "new", {"quality": 0}, InvalidInput, "quality is 0"),
        (photos, tmp_path / "new", {"size": 5}, InvalidInput, "size is 5"),
    ]
    for data, out, options, kind, words in cases:
        with pytest.raises(kind, match=words):
            shrink(data, out, **options)
    with pytest.raises(InvalidInput, match="already has a split"):
        open_dataset(str(tmp_path / "small"), train_classes=1)
    assert tree(tmp_path) == before


def test_nothing_readable_is_an_error_and_the_set_stays_incomplete(photos: Path, tmp_path: Path) -> None:
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 12 images"):
        shrink(photos, tmp_path / "small")
    with pytest.raises(DataError, match="is not complete"):
        open_dataset(str(tmp_path / "small"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"version":1', '"version":2'),
        lambda text: text.replace("ant/0.jpg", "../../0.jpg"),
        lambda text: text.replace("ant/0.jpg", "/etc/0.jpg"),
        lambda text: text.replace('"labels":[0,', '"labels":['),
        lambda text: text.replace('"labels":[0,', '"labels":[9,'),
        lambda text: text.replace('"labels":[0,', '"labels":["a",'),
        lambda text: text.replace('"base"', '"bases"'),
        lambda text: "[]",
    ],
)
def test_a_damaged_manifest_is_one_sentence(photos: Path, tmp_path: Path, damage: Callable[[str], str]) -> None:
    shrink(photos, tmp_path / "small")
    file = tmp_path / "small" / MANIFEST
    text = file.read_text()
    assert json.loads(text)["complete"] is True
    assert damage(text) != text
    file.write_text(damage(text))
    with pytest.raises(DataError, match=r"prepared\.json"):
        open_dataset(str(tmp_path / "small"))


def test_the_default_folder_lies_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert default_folder("a.b", 256) == Path("a.b-256")
    assert default_folder("a.b/", 320) == Path("a.b-320")
    assert default_folder("sub/list.csv", 256) == Path("sub/list-256")
    assert default_folder("cub", 256) == Path("cub-256")
    monkeypatch.chdir(tmp_path / "a.b")
    assert default_folder(".", 256) == tmp_path / "a.b-256"
