from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.folder import open_folder
from embedding_expansion.errors import DataError, InvalidInput

Picture = Callable[..., Path]


def classes(folder: Path, picture: Picture, *names: str) -> Path:
    for name in names:
        for image in ("b.png", "a.JPG"):
            picture(folder / name / image)
    return folder


def test_train_and_test_inside_are_the_sides(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path / "train", picture, "ant", "bee")
    classes(tmp_path / "test", picture, "cow")
    data = open_dataset(str(tmp_path))
    assert data.name == tmp_path.name
    assert (data.train.class_names, data.test.class_names) == (("ant", "bee"), ("cow",))
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.train.paths == tuple(tmp_path / "train" / c / i for c in ("ant", "bee") for i in ("a.JPG", "b.png"))


def test_otherwise_the_first_half_of_the_classes_in_name_order_trains(tmp_path: Path, picture: Picture) -> None:
    data = open_folder(classes(tmp_path, picture, "e", "d", "c", "b", "a"))
    assert (data.train.class_names, data.test.class_names) == (("a", "b"), ("c", "d", "e"))
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_number_of_training_classes_may_be_given(tmp_path: Path, picture: Picture) -> None:
    data = open_dataset(str(classes(tmp_path, picture, "a", "b", "c")), train_classes=2)
    assert (data.train.class_names, data.test.class_names) == (("a", "b"), ("c",))
    with pytest.raises(InvalidInput, match=r"train_classes is 3 but .* has 3 classes; give 1 to 2"):
        open_folder(tmp_path, train_classes=3)


def test_hidden_files_and_files_that_are_no_images_are_ignored(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path, picture, "a", "b")
    picture(tmp_path / "a" / ".hidden.png")
    picture(tmp_path / ".git" / "x.png")
    picture(tmp_path / "b" / ".thumbnails" / "x.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    picture(tmp_path / "b" / "deeper" / "c.png")
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.test)) == (2, 3)


def test_names_may_hold_blanks_and_letters_of_any_script_and_links_are_followed(
    tmp_path: Path, picture: Picture
) -> None:
    real = picture(tmp_path / "elsewhere" / "deep" / "x.png", value=7)
    folder = tmp_path / "set"
    picture(folder / "größe 1" / "ein bild.PNG")
    picture(folder / "狗" / "sub" / "写真.JPEG")
    (folder / "狗" / "linked.png").symlink_to(real)
    (folder / "狗" / "further").symlink_to(real.parent)
    (folder / "狗" / "sub" / "round").symlink_to(folder / "狗")
    data = open_folder(folder)
    assert data.train.class_names + data.test.class_names == ("größe 1", "狗")
    assert data.test.paths is not None
    names = [str(path.relative_to(folder / "狗")) for path in data.test.paths]
    assert names == ["further/x.png", "linked.png", "sub/写真.JPEG"]
    assert [int(data.test.load(i)[0, 0, 0]) for i in (0, 1)] == [7, 7]
    real.unlink()
    with pytest.raises(DataError, match=r"no image file .*linked\.png"):
        data.test.load(1)


def test_empty_classes_are_named(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path, picture, "a", "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="no images in the class folders c, d of"):
        open_folder(tmp_path)


def test_a_folder_that_cannot_be_split_is_refused(tmp_path: Path, picture: Picture) -> None:
    with pytest.raises(DataError, match="has no class folders"):
        open_folder(tmp_path)
    with pytest.raises(DataError, match="has 1 class folder; at least two"):
        open_folder(classes(tmp_path, picture, "a"))
    with pytest.raises(DataError, match="has train/ but no test/"):
        open_folder(classes(tmp_path, picture, "train"))
    classes(tmp_path / "test", picture, "x")
    classes(tmp_path / "train", picture, "x")
    with pytest.raises(InvalidInput, match="leave train_classes away"):
        open_folder(tmp_path, train_classes=1)
