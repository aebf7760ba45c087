"""Miniatures of the layouts of CARS196, with their counts in the place of the official ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from embedding_expansion.data import cars
from embedding_expansion.data.cars import open_cars
from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.official import DatasetCounts, SplitCounts
from embedding_expansion.errors import DataError

Picture = Callable[..., Path]


def annotations(files: list[str], labels: list[int], field: str) -> np.ndarray:
    """The struct array of the devkit, boxes included."""
    rows = np.zeros(len(files), dtype=[("bbox_x1", "O"), ("class", "O"), (field, "O")])
    rows["bbox_x1"], rows["class"], rows[field] = 1, labels, files
    return rows


NAMES = np.array([f"Car {k}" for k in range(1, 197)], dtype=object)
LABELS = [1, 98, 98, 99, 196]
CARS = DatasetCounts(SplitCounts(2, 3), SplitCounts(2, 2))


def make_cars_in_one_folder(folder: Path, picture: Picture) -> Path:
    files = [f"car_ims/00000{i}.jpg" for i in range(5)]
    for file in files:
        picture(folder / file)
    savemat(
        folder / "cars_annos.mat",
        {"annotations": annotations(files, LABELS, "relative_im_path"), "class_names": NAMES},
    )
    return folder


def make_cars_in_two_folders(folder: Path, picture: Picture) -> Path:
    devkit = folder / "devkit"
    devkit.mkdir()
    savemat(devkit / "cars_meta.mat", {"class_names": NAMES})
    train, test = [f"{i}.jpg" for i in range(3)], [f"{i}.jpg" for i in range(2)]
    for side, files in (("cars_train", train), ("cars_test", test)):
        for file in files:
            picture(folder / side / file)
    savemat(devkit / "cars_train_annos.mat", {"annotations": annotations(train, LABELS[2:], "fname")})
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": annotations(test, LABELS[:2], "fname")})
    return folder


@pytest.mark.parametrize("make", [make_cars_in_one_folder, make_cars_in_two_folders])
def test_both_layouts_of_the_cars_are_split_by_class(
    tmp_path: Path, picture: Picture, make: Callable[[Path, Picture], Path]
) -> None:
    data = open_cars(make(tmp_path, picture), part=False, expected=CARS)
    assert data.name == "CARS196"
    assert data.train.class_names == ("Car 1", "Car 98")
    assert data.test.class_names == ("Car 99", "Car 196")
    assert sorted(data.train.labels.tolist()) == [0, 1, 1]
    data.test.load(1)
    with pytest.raises(DataError, match="train has 2 classes with 3 images"):
        open_cars(tmp_path, part=False)
    name = "CARS196-part (part of CARS196: 5 of 16,185 images, 4 of 196 classes)"
    assert open_dataset("cars", root=tmp_path, part=True).name == name


def make_cropped_cars(folder: Path, picture: Picture) -> Path:
    files = [f"{label:03}.Car/{i}.jpg" for i, label in enumerate(LABELS)]
    for file in files:
        picture(folder / "images" / file)
    lines = [f"{file} {label}\n" for file, label in zip(files, LABELS, strict=True)]
    (folder / "labels.txt").write_text("".join(lines))
    return folder


def test_the_cropped_train_half_of_the_cars_is_a_part_with_a_name_of_its_own(tmp_path: Path, picture: Picture) -> None:
    make_cropped_cars(tmp_path, picture)
    data = open_cars(tmp_path, part=True, train_half=CARS)
    assert data.name == "CARS196-half (part of CARS196: the official train half, cropped)"
    assert data.test.class_names == ("099.Car", "196.Car")
    with pytest.raises(DataError, match="CARS196 is not complete"):
        open_cars(tmp_path, part=False, train_half=CARS)


@pytest.mark.parametrize(
    ("labels", "folders"),
    [
        ("cat/1.jpg 1\n", ["cat", "dog"]),
        ("001.Car/1.jpg 1\n", ["001.Car", "dog"]),
        ("001.Car/1.jpg 0\n", ["001.Car"]),
        ("197.Car/1.jpg 197\n", ["197.Car"]),
        ("001.Car/1.jpg one\n", ["001.Car"]),
        ("", ["001.Car"]),
        ("Größe".encode("latin-1"), ["001.Car"]),
    ],
)
def test_a_folder_of_ones_own_with_a_list_of_labels_is_not_taken_for_cars(
    tmp_path: Path, picture: Picture, labels: str | bytes, folders: list[str]
) -> None:
    for name in folders:
        picture(tmp_path / "images" / name / "1.jpg")
    (tmp_path / "labels.txt").write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    assert not cars.is_cars(tmp_path)


def test_a_label_of_cropped_cars_must_be_that_of_its_folder(tmp_path: Path, picture: Picture) -> None:
    listed = make_cropped_cars(tmp_path, picture) / "labels.txt"
    assert cars.is_cars(tmp_path)
    listed.write_text(listed.read_text().replace("3.jpg 99", "3.jpg 98"))
    with pytest.raises(DataError, match=r"labels.txt gives 099.Car/3.jpg the class 98, but the class must be"):
        open_cars(tmp_path, part=True)


@pytest.mark.parametrize("number", ["x", "--98", "98.5"])
def test_what_is_no_number_among_the_labels_of_cars_is_named_with_its_line(
    tmp_path: Path, picture: Picture, number: str
) -> None:
    listed = make_cropped_cars(tmp_path, picture) / "labels.txt"
    listed.write_text(listed.read_text().replace("jpg 98", f"jpg {number}", 1))
    with pytest.raises(DataError, match=r"line 2 of .*labels.txt has .* but a whole number is expected"):
        open_dataset(str(tmp_path), part=True)


def test_an_image_that_a_list_of_cars_names_twice_is_refused(tmp_path: Path, picture: Picture) -> None:
    listed = make_cropped_cars(tmp_path / "cropped", picture) / "labels.txt"
    listed.write_text(listed.read_text() + "098.Car/1.jpg 98\n")
    with pytest.raises(DataError, match=r"labels.txt names 098.Car/1.jpg twice, in line 2 and line 6"):
        open_cars(tmp_path / "cropped", part=True)
    make_cars_in_one_folder(tmp_path, picture)
    files = [f"car_ims/00000{i}.jpg" for i in (0, 1, 2, 3, 1)]
    content = {"annotations": annotations(files, LABELS, "relative_im_path"), "class_names": NAMES}
    savemat(tmp_path / "cars_annos.mat", content)
    with pytest.raises(DataError, match=r"cars_annos.mat names car_ims/000001.jpg twice, in annotations 2 and 5"):
        open_cars(tmp_path, part=True)


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_part_that_leaves_a_side_empty_is_refused(tmp_path: Path, picture: Picture, side: str) -> None:
    make_cropped_cars(tmp_path, picture)
    for folder in (tmp_path / "images").iterdir():
        if (int(folder.name[:3]) <= 98) == (side == "train"):
            shutil.rmtree(folder)
    with pytest.raises(DataError, match=rf"has no {side} images; add some"):
        open_dataset("cars", root=tmp_path, part=True)


def test_the_test_list_of_the_cars_must_have_the_classes(tmp_path: Path, picture: Picture) -> None:
    make_cars_in_two_folders(tmp_path, picture)
    labelled = tmp_path / "cars_test_annos_withlabels.mat"
    savemat(labelled, {"annotations": {"fname": "0.jpg", "bbox_x1": 1}})
    with pytest.raises(DataError, match="have no field 'class'"):
        open_cars(tmp_path, part=True)
    labelled.unlink()
    with pytest.raises(DataError, match=r"lacks cars_test_annos_withlabels\.mat"):
        open_cars(tmp_path, part=True)


@pytest.mark.parametrize("label", [0, 197, 1.5, "one", [1, 2]])
def test_a_class_that_no_car_can_have_is_named_with_its_row(tmp_path: Path, picture: Picture, label: object) -> None:
    make_cars_in_one_folder(tmp_path, picture)
    rows = annotations([f"car_ims/00000{i}.jpg" for i in range(5)], LABELS, "relative_im_path")
    rows[1]["class"] = label
    savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": NAMES})
    with pytest.raises(DataError, match=r"annotation 2 in .*cars_annos.mat has the class .* from 1 to 196"):
        open_cars(tmp_path, part=True)
    savemat(tmp_path / "cars_annos.mat", {"annotations": np.delete(rows, 1), "class_names": NAMES[:100]})
    with pytest.raises(DataError, match="has 100 names, but 196 are expected"):
        open_cars(tmp_path, part=True)


def test_a_broken_mat_file_is_named(tmp_path: Path, picture: Picture) -> None:
    make_cars_in_one_folder(tmp_path, picture)
    whole = (tmp_path / "cars_annos.mat").read_bytes()
    for length in range(0, len(whole), len(whole) // 20):
        (tmp_path / "cars_annos.mat").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cars_annos.mat"):
            open_cars(tmp_path, part=False)
    (tmp_path / "cars_annos.mat").write_bytes(b"no mat file")
    with pytest.raises(DataError, match=r"cars_annos.mat cannot be read as a .mat file"):
        open_cars(tmp_path, part=False)
    savemat(tmp_path / "cars_annos.mat", {"other": 1})
    with pytest.raises(DataError, match="has no variable 'annotations'"):
        open_cars(tmp_path, part=False)
