"""Images in an index against a plain Embedder.embed: vectors, labels, metadata, thumbnails; what is skipped and why."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding_expansion.data.thumbnails import thumbnail
from embedding_expansion.errors import DataError, StoreError
from embedding_expansion.inference.collection import Collection
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.indexing import add_images, index_images
from embedding_expansion.retrieval.index import Item, create_index, open_index
from inference.contents import contents


@pytest.fixture
def photos(photographs: Path, tmp_path: Path) -> Path:
    """A copy that a test may change: 2 classes of 4 images, and one image in no class."""
    folder = tmp_path / "photos"
    for name in ("class_0", "class_1"):
        shutil.copytree(photographs / name, folder / name)
    shutil.copy(photographs / "class_2" / "0.jpg", folder / "alone.jpg")
    return folder


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the model, batch by batch."""
    sizes: list[int] = []
    original = Embedder.embed_squares

    def counted(self: Embedder, squares: list[np.ndarray], *, flip: bool = False) -> np.ndarray:
        sizes.append(len(squares))
        return original(self, squares, flip=flip)

    monkeypatch.setattr(Embedder, "embed_squares", counted)
    return sizes


@pytest.mark.parametrize(("kind", "flip"), [("run", False), ("onnx", True)])
def test_an_index_holds_what_the_embedder_gives_and_what_is_known_of_each_image(
    kind: str, flip: bool, trained: Path, exports: Path, photos: Path, place: str
) -> None:
    model = trained if kind == "run" else exports / kind
    report = index_images(model, [photos], place, flip=flip, device="cpu", batch_size=4)
    assert (report.new, report.changed, report.unchanged, report.resumed, report.broken) == (9, 0, 0, 0, {})
    files = sorted(photos.rglob("*.jpg"))
    expected = Embedder.load(model, device="cpu").embed(files, flip=flip)
    found = contents(place)
    assert set(found) == {str(file) for file in files}
    for file, vector in zip(files, expected, strict=True):
        label, metadata, picture, row = found[str(file)]
        assert label == (None if file.parent == photos else file.parent.name)
        facts = file.stat()
        assert metadata == {"width": 41, "height": 30, "bytes": facts.st_size, "mtime": facts.st_mtime}
        np.testing.assert_allclose(np.frombuffer(row, np.float32), vector, atol=1e-5)
        with Image.open(io.BytesIO(picture)) as image, Image.open(file) as original:
            assert (image.format, image.size) == ("PNG", (41, 30))
            np.testing.assert_array_equal(np.asarray(image), np.asarray(original))
    with Collection.open(place, device="cpu") as collection:  # the model came along
        assert collection.flip is flip
        (answer,) = collection.search(collection.embedder.embed(files[3], flip=flip), k=1)
        assert answer.matches[0].item.path == str(files[3])
        assert answer.matches[0].similarity == pytest.approx(1, abs=1e-5)


def test_what_has_not_changed_is_not_embedded_again(
    exports: Path, photos: Path, place: str, embedded: list[int]
) -> None:
    index_images(exports / "onnx", [photos], place, batch_size=4)
    assert embedded == [4, 4, 1]
    before = contents(place)
    for report in (index_images(exports / "onnx", [photos], place), add_images(place, [photos, photos / "alone.jpg"])):
        assert (report.new, report.changed, report.unchanged) == (0, 0, 9)
    assert embedded == [4, 4, 1]
    assert contents(place) == before
    changed = photos / "class_0" / "2.jpg"
    shutil.copy(photos / "class_1" / "0.jpg", changed)
    os.utime(photos / "class_0" / "3.jpg", (1, 1))
    report = add_images(place, [photos / "class_0"])
    assert (report.new, report.changed, report.unchanged) == (0, 2, 2)
    assert embedded[3:] == [2]
    after = contents(place)
    assert {path for path in before if after[path] != before[path]} == {
        str(changed),
        str(photos / "class_0" / "3.jpg"),
    }
    # What was said of an image stays; the picture is the new one.
    assert after[str(changed)][0] == "class_0"
    assert after[str(changed)][2] == before[str(photos / "class_1" / "0.jpg")][2]


def test_other_labels_are_given_without_embedding(
    exports: Path, photos: Path, place: str, tmp_path: Path, embedded: list[int]
) -> None:
    index_images(exports / "onnx", [photos], place)
    before = contents(place)
    table = tmp_path / "table.csv"
    table.write_text("year,path,label\n1999,photos/alone.jpg,wren\n,photos/class_0/0.jpg,\n", encoding="utf-8")
    report = add_images(place, [photos / "alone.jpg", photos / "class_0" / "0.jpg"], labels=str(table))
    assert (report.new, report.changed, report.unchanged, embedded) == (0, 2, 0, [9])
    after = contents(place)
    for name, label, extra in (("alone.jpg", "wren", {"year": 1999}), ("class_0/0.jpg", None, {})):
        old, new = before[str(photos / name)], after[str(photos / name)]
        assert (new[0], new[1], new[2:]) == (label, old[1] | extra, old[2:])


def test_a_named_file_and_a_folders_own_files_have_no_label_and_deeper_ones_their_own_folders(
    exports: Path, photographs: Path, tmp_path: Path
) -> None:
    deep = tmp_path / "photos" / "birds" / "wren"
    deep.mkdir(parents=True)
    for target in (deep / "1.jpg", deep.parent / "2.jpg", deep.parents[1] / "3.jpg", tmp_path / "4.jpg"):
        shutil.copy(photographs / "class_0" / "0.jpg", target)
    (deep / "5.JPG.txt").write_text("no image by its name")
    place = str(tmp_path / "index")
    index_images(exports / "onnx", [tmp_path / "4.jpg", deep.parents[1], deep / "1.jpg"], place)
    labels = {path.rpartition("/")[2]: found[0] for path, found in contents(place).items()}
    assert labels == {"1.jpg": "wren", "2.jpg": "birds", "3.jpg": None, "4.jpg": None}


def test_files_whose_names_are_no_text_are_indexed(
    exports: Path, photographs: Path, place: str, tmp_path: Path
) -> None:
    folder = os.fsencode(tmp_path / "photos") + b"/\xff\xe9"
    os.makedirs(folder)
    shutil.copy(os.fsencode(photographs / "class_0" / "0.jpg"), folder + b"/caf\xe9.jpg")
    index_images(exports / "onnx", [tmp_path / "photos"], place)
    ((path, found),) = contents(place).items()
    assert os.fsencode(path) == folder + b"/caf\xe9.jpg"
    assert os.fsencode(found[0]) == b"\xff\xe9"
    assert add_images(place, [os.fsdecode(folder)]).unchanged == 1


def test_a_pipe_called_like_an_image_is_not_waited_for(exports: Path, photos: Path, tmp_path: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    report = index_images(exports / "onnx", [photos], tmp_path / "index")
    assert (report.new, report.broken) == (9, {})


def test_an_image_that_the_model_maps_to_zeros_is_left_out(
    exports: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Embedder.embed_squares

    def first_is_zero(self: Embedder, squares: list[np.ndarray], *, flip: bool = False) -> np.ndarray:
        vectors = original(self, squares, flip=flip)
        vectors[0] = 0
        return vectors

    monkeypatch.setattr(Embedder, "embed_squares", first_is_zero)
    report = index_images(exports / "onnx", [photos], tmp_path / "index")
    assert report.new == 8
    assert list(report.broken) == [str(photos / "alone.jpg")]


def test_another_model_or_an_index_of_unknown_vectors_is_refused(
    trained: Path, exports: Path, photos: Path, place: str
) -> None:
    index_images(exports / "onnx", [photos / "class_0"], place)
    before = contents(place)
    with pytest.raises(StoreError, match="holds vectors of the model"):
        index_images(exports / "safetensors", [photos], place)
    with pytest.raises(StoreError, match=r"holds vectors of the model.*they differ in --flip"):
        index_images(exports / "onnx", [photos], place, flip=True)
    with pytest.raises(StoreError, match="has precision float32, not float16"):
        index_images(exports / "onnx", [photos], place, precision="float16")
    assert contents(place) == before


def test_two_exports_of_one_run_and_the_run_itself_are_one_model(
    trained: Path, exports: Path, photos: Path, tmp_path: Path
) -> None:
    index_images(trained, [photos / "class_0"], tmp_path / "index", device="cpu")
    assert index_images(exports / "safetensors", [photos], tmp_path / "index", device="cpu").new == 5


def test_vectors_from_elsewhere_and_other_dimensions_are_refused(exports: Path, photos: Path, tmp_path: Path) -> None:
    with create_index(tmp_path / "wide", 7):
        pass
    with pytest.raises(StoreError, match="holds vectors of 7 dimensions, but the model produces 6"):
        index_images(exports / "onnx", [photos], tmp_path / "wide")
    with create_index(tmp_path / "own", 6) as index:
        index.add([Item("x")], np.ones((1, 6)))
    with pytest.raises(StoreError, match="items of an unknown model"):
        index_images(exports / "onnx", [photos], tmp_path / "own")
    with pytest.raises(StoreError, match="contains no model"):
        add_images(tmp_path / "own", [photos])


def test_where_no_image_can_be_read_the_index_stays_as_it_was(exports: Path, tmp_path: Path, photos: Path) -> None:
    noise = tmp_path / "noise"
    noise.mkdir()
    (noise / "large.jpg").write_bytes(np.random.default_rng(0).bytes(5_000_000))
    (noise / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 2 images can be read.*is empty"):
        index_images(exports / "onnx", [noise], tmp_path / "index")
    with open_index(tmp_path / "index") as index:
        assert (index.count(), index.unfinished()) == (0, {})
    report = index_images(exports / "onnx", [noise, photos], tmp_path / "index", batch_size=2)
    assert (report.new, set(report.broken)) == (9, {str(noise / "large.jpg"), str(noise / "empty.png")})


@pytest.mark.parametrize(
    ("size", "kind", "expected"),
    [
        ((64, 900), "PNG", (18, 256)),
        ((65, 65), "JPEG", (65, 65)),
        ((4000, 40), "JPEG", (256, 3)),
        ((1, 1), "PNG", (1, 1)),
    ],
)
def test_thumbnails_are_small_and_keep_the_shape(size: tuple[int, int], kind: str, expected: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(thumbnail(np.zeros((size[1], size[0], 3), np.uint8)))) as image:
        assert (image.format, image.size) == (kind, expected)
