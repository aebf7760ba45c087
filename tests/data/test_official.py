"""Miniatures of the official layouts, with their counts in the place of the official ones."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding_expansion.data import birds, cars, inshop, omniglot, products
from embedding_expansion.data.birds import open_birds
from embedding_expansion.data.datasets import DATASETS, open_dataset
from embedding_expansion.data.inshop import open_inshop
from embedding_expansion.data.official import DatasetCounts, SplitCounts
from embedding_expansion.data.omniglot import open_omniglot
from embedding_expansion.data.products import open_products
from embedding_expansion.errors import DataError, InvalidInput, UnknownName

Picture = Callable[..., Path]


def make_birds(folder: Path, picture: Picture, with_labels: bool = True) -> Path:
    """Four classes; class k has k images."""
    names = [f"00{k}.Bird_{k}" for k in (1, 2, 3, 4)]
    files = [f"{name}/{i}.jpg" for k, name in enumerate(names, start=1) for i in range(k)]
    for file in files:
        picture(folder / "images" / file)
    (folder / "classes.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(names, start=1)))
    (folder / "images.txt").write_text("".join(f"{i} {file}\n" for i, file in enumerate(files, start=1)))
    if with_labels:
        labels = "".join(f"{i} {int(file[:3])}\n" for i, file in enumerate(files, start=1))
        (folder / "image_class_labels.txt").write_text(labels)
    return folder


BIRDS = DatasetCounts(SplitCounts(2, 3), SplitCounts(2, 7))


@pytest.mark.parametrize("with_labels", [True, False])
def test_the_first_half_of_the_birds_trains(tmp_path: Path, picture: Picture, with_labels: bool) -> None:
    data = open_birds(make_birds(tmp_path, picture, with_labels), part=False, expected=BIRDS)
    assert data.name == "CUB-200-2011"
    assert data.train.class_names == ("001.Bird_1", "002.Bird_2")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.test.labels.tolist() == [0] * 3 + [1] * 4
    assert data.test.load(0).shape == (3, 4, 6)


def test_a_part_of_the_birds_opens_only_when_asked_for_and_says_what_it_is(tmp_path: Path, picture: Picture) -> None:
    make_birds(tmp_path, picture)
    with pytest.raises(DataError) as refusal:
        open_dataset("cub", root=tmp_path)
    assert "train has 2 classes with 3 images, test has 2 classes with 7 images" in str(refusal.value)
    assert "but train 100 classes with 5,864 images and test 100 classes with 5,924 images are expected" in str(
        refusal.value
    )
    for way in ("part=True", "--part for embex data ... check", "--data.part true for embex train"):
        assert way in str(refusal.value)
    name = "CUB-200-2011-part (part of CUB-200-2011: 10 of 11,788 images, 4 of 200 classes)"
    assert open_dataset("cub", root=tmp_path, part=True).name == name
    assert open_birds(tmp_path, part=True, expected=BIRDS).name == "CUB-200-2011"  # the whole is a welcome part


def test_missing_images_are_counted_and_a_part_goes_without_them(tmp_path: Path, picture: Picture) -> None:
    make_birds(tmp_path, picture)
    (tmp_path / "images" / "003.Bird_3" / "1.jpg").unlink()
    (tmp_path / "images" / "001.Bird_1" / "0.jpg").unlink()
    with pytest.raises(DataError, match=r"2 of the 10 listed images are not in .*, the first is 001.Bird_1/0.jpg"):
        open_birds(tmp_path, part=False, expected=BIRDS)
    data = open_birds(tmp_path, part=True, expected=BIRDS)
    assert data.name == "CUB-200-2011-part (part of CUB-200-2011: 8 of 10 images, 3 of 4 classes)"
    assert (len(data.train), len(data.test)) == (2, 6)


def test_only_the_complete_first_classes_of_the_birds_are_named_by_their_numbers(
    tmp_path: Path, picture: Picture
) -> None:
    make_birds(tmp_path, picture)
    first = DatasetCounts(SplitCounts(1, 1), SplitCounts(1, 2))
    for image in (3, 2):
        for path in (tmp_path / "images").glob(f"00[34]*/{image}.jpg"):
            path.unlink()
    assert open_birds(tmp_path, part=True, first_50=first).name.startswith("CUB-200-2011-part")  # others are there
    for path in (tmp_path / "images").glob("00[34]*/*.jpg"):
        path.unlink()
    name = open_birds(tmp_path, part=True, first_50=first).name
    assert name == "CUB-2 (part of CUB-200-2011: classes 1-2)"
    (tmp_path / "images" / "002.Bird_2" / "1.jpg").unlink()
    name = open_birds(tmp_path, part=True, first_50=first).name
    assert name == "CUB-200-2011-part (part of CUB-200-2011: 2 of 11,788 images, 2 of 200 classes)"


def test_a_broken_list_is_named_with_its_line(tmp_path: Path, picture: Picture) -> None:
    make_birds(tmp_path, picture)
    (tmp_path / "images.txt").write_text("1 001.Bird_1/0.jpg\n\n2\n")
    with pytest.raises(DataError, match=r"line 3 of .*images.txt has 1 fields instead of 2 \('2'\)"):
        open_birds(tmp_path, part=False)


@pytest.mark.parametrize("number", ["x", "--1", "1.5", "²", "9" * 5000])
@pytest.mark.parametrize("listed", ["classes.txt", "image_class_labels.txt", "Ebay_train.txt"])
def test_what_is_no_number_in_a_list_is_named_with_its_line(
    tmp_path: Path, picture: Picture, listed: str, number: str
) -> None:
    if listed == "Ebay_train.txt":
        (tmp_path / "Ebay_test.txt").touch()
        (tmp_path / listed).write_text(f"header\n1 {number} 1 chair_final/1.JPG\n")
    else:
        make_birds(tmp_path, picture)
        line = f"{number} 001.Bird_1" if listed == "classes.txt" else f"1 {number}"
        (tmp_path / listed).write_text("1 2\n" + line)
    with pytest.raises(DataError, match=rf"line 2 of .*{listed} has .* but a whole number is expected"):
        open_dataset(str(tmp_path), part=True)


@pytest.mark.parametrize(
    ("listed", "line", "named"),
    [
        ("images.txt", "11 003.Bird_3/1.jpg", "003.Bird_3/1.jpg twice, in line 5 and line 11"),
        ("images.txt", "4 002.Bird_2/new.jpg", "4 twice, in line 4 and line 11"),
        ("image_class_labels.txt", "4 1", "4 twice, in line 4 and line 11"),
        ("classes.txt", "2 002.Again", "2 twice, in line 2 and line 5"),
    ],
)
def test_a_list_that_names_something_twice_is_refused_by_both_lines(
    tmp_path: Path, picture: Picture, listed: str, line: str, named: str
) -> None:
    make_birds(tmp_path, picture)
    with (tmp_path / listed).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=f"{listed} names {named}"):
        open_birds(tmp_path, part=True)


def test_products_on_both_sides_and_clothes_listed_twice_are_refused(tmp_path: Path, picture: Picture) -> None:
    header = "image_id class_id super_class_id path\n"
    (tmp_path / "Ebay_train.txt").write_text(header + "1 1 1 chair_final/1_0.JPG\n2 2 1 chair_final/2_0.JPG\n")
    (tmp_path / "Ebay_test.txt").write_text(header + "3 10 2 chair_final/2_0.JPG\n")
    for file in ("chair_final/1_0.JPG", "chair_final/2_0.JPG"):
        picture(tmp_path / file)
    with pytest.raises(DataError, match=r"has 1 images in both train and test, .*chair_final/2_0.JPG"):
        open_products(tmp_path, part=True)
    lines = ["img/a.jpg id_1 train", "img/b.jpg id_2 query", "img/a.jpg id_2 gallery"]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(["3", "image_name item_id status", *lines]))
    with pytest.raises(DataError, match=r"names img/a\.jpg twice, in line 3 and line 5"):
        open_inshop(tmp_path, part=True)


def test_a_folder_that_cannot_be_read_is_named_whether_or_not_a_part_is_welcome(
    tmp_path: Path, picture: Picture
) -> None:
    make_birds(tmp_path, picture)
    folder = tmp_path / "images" / "003.Bird_3"
    shutil.rmtree(folder)
    folder.symlink_to(folder)  # which fails in another way than a folder that is not there
    for part in (True, False):
        with pytest.raises(DataError, match=r"1 folder cannot be read: .*003\.Bird_3 \(Too many levels"):
            open_birds(tmp_path, part=part)


def test_the_products_are_split_by_their_lists(tmp_path: Path, picture: Picture) -> None:
    header = "image_id class_id super_class_id path\n"
    (tmp_path / "Ebay_train.txt").write_text(header + "1 1 1 chair_final/1_0.JPG\n2 2 1 chair_final/2_0.JPG\n")
    (tmp_path / "Ebay_test.txt").write_text(header + "3 10 2 lamp_final/3_0.JPG\n4 9 2 lamp_final/4_0.JPG\n")
    for file in ("chair_final/1_0.JPG", "chair_final/2_0.JPG", "lamp_final/3_0.JPG", "lamp_final/4_0.JPG"):
        picture(tmp_path / file)
    data = open_products(tmp_path, part=False, expected=DatasetCounts(SplitCounts(2, 2), SplitCounts(2, 2)))
    assert (data.name, data.recall_at) == ("Stanford Online Products", (1, 10, 100, 1000))
    assert data.test.class_names == ("lamp 9", "lamp 10")
    assert data.test.labels.tolist() == [1, 0]
    part = open_dataset("sop", root=tmp_path, part=True)
    assert part.name.startswith("Stanford Online Products-part (part of Stanford Online Products: 4 of 120,053 images")


@pytest.mark.parametrize("nested", [True, False])
def test_in_shop_has_queries_and_a_gallery(tmp_path: Path, picture: Picture, nested: bool) -> None:
    rows = [("1", "train"), ("1", "train"), ("2", "query"), ("2", "gallery"), ("3", "gallery")]
    lines = [f"img/W/id_{item}/{i}.jpg id_{item} {status}" for i, (item, status) in enumerate(rows)]
    listed = tmp_path / ("Eval/list_eval_partition.txt" if nested else "list_eval_partition.txt")
    listed.parent.mkdir(exist_ok=True)
    listed.write_text("\n".join(["5", "image_name item_id evaluation_status", *lines]))
    for line in lines:
        picture(tmp_path / ("Img" if nested else ".") / line.split()[0])
    expected = DatasetCounts(SplitCounts(1, 2), SplitCounts(2, 3, queries=1, gallery=2))
    data = open_inshop(tmp_path, part=False, expected=expected)
    assert (data.name, data.recall_at) == ("In-Shop", (1, 10, 20, 30))
    assert data.test.is_query is not None
    assert data.test.is_gallery is not None
    assert data.test.is_query.tolist() == [True, False, False]
    assert data.test.is_gallery.tolist() == [False, True, True]
    assert data.test.class_names == ("id_2", "id_3")
    data.test.load(2)
    with pytest.raises(DataError, match=r"test has 2 classes with 3 images \(1 query, 2 gallery\), but train 3,997"):
        open_dataset("inshop", root=tmp_path)
    listed.write_text(listed.read_text().replace("query", "probe"))
    with pytest.raises(DataError, match="has the evaluation status 'probe'"):
        open_inshop(tmp_path, part=False, expected=expected)


def make_omniglot(folder: Path, zipped: bool) -> Path:
    """Two characters train, one tests; two drawings each, one black stroke at a place of its own."""
    for side, places in (
        ("images_background", ["Greek/character01", "Greek/character02"]),
        ("images_evaluation", ["ULOG/character01"]),
    ):
        for number, place in enumerate(places):
            for drawing in (0, 1):
                image = np.full((105, 105), 255, dtype=np.uint8)
                image[10 * number + drawing, 5:60] = 0
                path = folder / side / place / f"0{number}_0{drawing}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).convert("1").save(path)
        if zipped:
            with zipfile.ZipFile(folder / f"{side}.zip", "w") as archive:
                for path in sorted((folder / side).rglob("*.png"), reverse=True):
                    archive.write(path, path.relative_to(folder))
                    path.unlink()
            for empty in sorted((folder / side).rglob("*"), reverse=True):
                empty.rmdir()
            (folder / side).rmdir()
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_omniglot_is_read_from_folders_or_zips_with_white_strokes_on_black(tmp_path: Path, zipped: bool) -> None:
    make_omniglot(tmp_path, zipped)
    data = open_omniglot(tmp_path, part=False, expected=DatasetCounts(SplitCounts(2, 4), SplitCounts(1, 2)))
    assert (data.name, data.transform) == ("Omniglot", "none")
    assert data.train.class_names == ("Greek/character01", "Greek/character02")
    for index, row in enumerate((0, 1, 10, 11)):
        image = data.train.load(index)
        assert image.shape == (1, 105, 105)
        assert image[0, row, 5:60].min() == 255
        assert int(image.sum()) == 55 * 255
    name = "Omniglot-part (part of Omniglot: 6 of 32,460 images, 3 of 1,623 classes)"
    assert open_dataset("omniglot", root=tmp_path, part=True).name == name


@pytest.mark.parametrize("zipped", [True, False])
def test_what_an_archiver_left_among_the_drawings_is_passed_over(tmp_path: Path, zipped: bool) -> None:
    for side in ("images_background", "images_evaluation"):
        for place in (f"{side}/Greek/character01/._00_00.png", f"{side}/__MACOSX/Greek/00_00.png"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_bytes(b"no image")
    make_omniglot(tmp_path, zipped)
    assert (
        len(open_omniglot(tmp_path, part=False, expected=DatasetCounts(SplitCounts(2, 4), SplitCounts(1, 2))).train)
        == 4
    )


def test_a_broken_omniglot_zip_is_named(tmp_path: Path) -> None:
    make_omniglot(tmp_path, zipped=True)
    (tmp_path / "images_evaluation.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"images_evaluation\.zip is not a complete \.zip file"):
        open_omniglot(tmp_path, part=False)


def test_a_broken_drawing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_omniglot(tmp_path, zipped=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # a drawing is then a suspected decompression bomb
    with pytest.raises(DataError, match=r"a drawing in .*images_background\.zip.* cannot be decoded"):
        open_omniglot(tmp_path, part=False)


def test_the_expected_counts_are_those_of_the_papers() -> None:
    assert (birds.EXPECTED.train.images, birds.EXPECTED.test.images) == (5_864, 5_924)
    assert sum(side.images for side in (cars.EXPECTED.train, cars.EXPECTED.test)) == 16_185
    assert sum(side.images for side in (products.EXPECTED.train, products.EXPECTED.test)) == 120_053
    assert sum(side.classes for side in (products.EXPECTED.train, products.EXPECTED.test)) == 22_634
    assert sum(side.images for side in (inshop.EXPECTED.train, inshop.EXPECTED.test)) == 52_712
    assert sum(side.classes for side in (inshop.EXPECTED.train, inshop.EXPECTED.test)) == 7_982
    assert (omniglot.EXPECTED.train.classes, omniglot.EXPECTED.test.classes) == (964, 659)


def test_a_folder_with_an_official_layout_is_opened_as_that_set(tmp_path: Path, picture: Picture) -> None:
    make_birds(tmp_path / "anything", picture)
    assert open_dataset(str(tmp_path / "anything"), part=True).name.startswith("CUB-200-2011-part")
    with pytest.raises(DataError, match="CUB-200-2011 is not complete"):
        open_dataset(str(tmp_path / "anything"))


def test_a_set_is_looked_for_in_the_root_then_the_variable_then_data_then_the_cache(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEX_CACHE", str(tmp_path / "cache"))
    layout = DATASETS["cub"]
    assert layout is not None
    with pytest.raises(DataError, match=r"CUB-200-2011 was not found in data, .*cache .*embex data cub"):
        open_dataset("cub")
    for place in ("cache", "data", "variable", "explicit"):
        make_birds(tmp_path / place / "CUB_200_2011", picture)
        if place == "variable":
            monkeypatch.setenv("EMBEX_DATA", str(tmp_path / place))
        found = layout.find(Path("explicit") if place == "explicit" else None)
        assert found is not None
        assert found.resolve() == tmp_path / place / "CUB_200_2011"


def test_names_and_paths_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'glyphs'"):
        open_dataset("glyph")
    with pytest.raises(DataError, match="there is no folder or file"):
        open_dataset(str(tmp_path / "nowhere"))
    (tmp_path / "file.txt").touch()
    with pytest.raises(DataError, match=r"neither a folder nor a \.csv, \.tsv, \.npz or \.parquet file"):
        open_dataset(str(tmp_path / "file.txt"))
    with pytest.raises(InvalidInput, match="glyphs already has a split"):
        open_dataset("glyphs", train_classes=3)
