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
    with pytest.raises(InvalidInput, match=r"train_classes is 3 but .* has 3 classes; pass 1 to 2"):
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
    alone = picture(tmp_path / "alone.png", value=7)
    folder = tmp_path / "set"
    picture(folder / "größe 1" / "ein bild.PNG")
    picture(folder / "狗" / "sub" / "写真.JPEG")
    (folder / "狗" / "linked.png").symlink_to(alone)
    (folder / "狗" / "further").symlink_to(real.parent)
    (folder / "狗" / "sub" / "round").symlink_to(folder / "狗")
    data = open_folder(folder)
    assert data.train.class_names + data.test.class_names == ("größe 1", "狗")
    assert data.test.paths is not None
    names = [str(path.relative_to(folder / "狗")) for path in data.test.paths]
    assert names == ["further/x.png", "linked.png", "sub/写真.JPEG"]
    assert [int(data.test.load(i)[0, 0, 0]) for i in (0, 1)] == [7, 7]
    assert data.left_out == f"links that lead back up: {folder / '狗' / 'sub' / 'round'}"
    alone.unlink()
    with pytest.raises(DataError, match=r"no image file .*linked\.png"):
        data.test.load(1)


def test_empty_classes_are_skipped_and_named_unless_too_few_are_left(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path, picture, "a", "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "d" / "deeper").mkdir(parents=True)
    (tmp_path / "d" / "deeper" / "photo.heic").touch()
    data = open_folder(tmp_path)
    assert (data.train.class_names, data.test.class_names) == (("a",), ("b",))
    assert data.left_out == f"ignored: .heic 1; folders without images: {tmp_path / 'c'}, {tmp_path / 'd'}"
    for image in (tmp_path / "a").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"1 class folder with images; add more, .* .*ignored: .heic 1; .*/a, .*/c, "):
        open_folder(tmp_path)


def test_what_lies_beside_the_classes_is_told(tmp_path: Path, picture: Picture) -> None:
    for side in ("train", "test", "val"):
        classes(tmp_path / side, picture, f"{side} class")
    picture(tmp_path / "train" / "loose.png")
    assert open_folder(tmp_path).left_out == "images in no class folder: 1; folders beside train/ and test/: val"


def test_two_class_folders_that_are_the_same_folder_are_refused(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path / "far", picture, "x")
    classes(tmp_path / "set", picture, "a", "b")
    for name in ("c", "d"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "far" / "x")
    with pytest.raises(DataError, match=r"set/d is a link to .*set/c, so its images would be in the set twice"):
        open_folder(tmp_path / "set")
    for name in ("c", "d"):
        (tmp_path / "set" / name).unlink()
    (tmp_path / "set" / "0").symlink_to(tmp_path / "set" / "b")  # whatever comes first: a folder keeps its own name
    with pytest.raises(DataError, match=r"set/0 is a link to .*set/b,"):
        open_folder(tmp_path / "set")


def test_a_class_on_both_sides_by_a_link_is_refused(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path / "test", picture, "x", "y")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "z").symlink_to(tmp_path / "test" / "x")
    with pytest.raises(DataError, match=r"train/z is a link to .*test/x,"):
        open_folder(tmp_path)
    (tmp_path / "train" / "z").unlink()
    (tmp_path / "train").rmdir()
    (tmp_path / "train").symlink_to(tmp_path / "test")
    with pytest.raises(DataError, match=r"train is a link to .*test,"):
        open_folder(tmp_path)


def test_a_file_in_two_classes_by_a_link_is_refused(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path, picture, "a", "b")
    (tmp_path / "b" / "z.png").symlink_to(tmp_path / "a" / "b.png")
    with pytest.raises(DataError, match=r"b/z\.png is the same file as .*a/b\.png and would be in the set twice"):
        open_folder(tmp_path)


def test_a_link_upwards_puts_no_other_class_into_a_class(tmp_path: Path, picture: Picture) -> None:
    classes(tmp_path, picture, "a", "b", "c")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "b" / "further up").symlink_to(tmp_path.parent)
    (tmp_path / "round").symlink_to(tmp_path)
    data = open_folder(tmp_path)
    assert (len(data.train), len(data.test)) == (2, 4)
    led_back = (tmp_path / "a" / "up", tmp_path / "b" / "further up", tmp_path / "round")
    assert sorted(data.left_out.removeprefix("links that lead back up: ").split(", ")) == sorted(map(str, led_back))


def test_a_folder_that_cannot_be_split_is_refused(tmp_path: Path, picture: Picture) -> None:
    with pytest.raises(DataError, match="has no class folders"):
        open_folder(tmp_path)
    with pytest.raises(DataError, match="has 1 class folder with images; add more, at least two"):
        open_folder(classes(tmp_path, picture, "a"))
    with pytest.raises(DataError, match="has train/ but no test/"):
        open_folder(classes(tmp_path, picture, "train"))
    classes(tmp_path / "test", picture, "x")
    classes(tmp_path / "train", picture, "x")
    with pytest.raises(InvalidInput, match="do not pass train_classes"):
        open_folder(tmp_path, train_classes=1)
