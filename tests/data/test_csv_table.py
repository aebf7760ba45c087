from __future__ import annotations

from pathlib import Path

import pytest

from embedding_expansion.data.csv_table import open_csv
from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.errors import DataError

HEADER = "path,label,split,is_query,is_gallery\n"
TRAIN = "a.jpg,10,train,,\nb.jpg,9,train,,\n"


def table(folder: Path, *lines: str, header: str = HEADER, train: str = TRAIN) -> Path:
    path = folder / "set.csv"
    path.write_text(header + train + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_rows_become_two_sides_with_query_and_gallery_marks(tmp_path: Path) -> None:
    lines = ("c.jpg,x y,validation,True,False", f"{tmp_path}/d.jpg,ä,validation,0,1", "e.jpg,ä,test,True,True")
    data = open_dataset(str(table(tmp_path, *lines)))
    assert data.name == "set"
    assert data.train.class_names == ("9", "10")  # numbers in the order of numbers
    assert data.train.labels.tolist() == [1, 0]
    assert data.test.class_names == ("x y", "ä")
    assert data.test.paths == (tmp_path / "c.jpg", tmp_path / "d.jpg", tmp_path / "e.jpg")
    assert data.test.is_query is not None
    assert data.test.is_gallery is not None
    assert data.test.is_query.tolist() == [True, False, True]
    assert data.test.is_gallery.tolist() == [False, True, True]


@pytest.mark.parametrize("marks", [",,", ",True,True", ",nan,None"])
def test_without_marks_or_with_both_everywhere_each_image_searches_all_others(tmp_path: Path, marks: str) -> None:
    data = open_csv(table(tmp_path, f"c.jpg,1,validation{marks}", f"d.jpg,1,validation{marks}"))
    assert data.test.is_query is None


def test_the_columns_of_marks_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text("﻿split,label,path\ntrain,1,a.jpg\nvalidation,2,b.jpg\n", encoding="utf-8")
    assert open_csv(path).test.is_query is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.jpg,,validation,,", "line 4 of .* has no label"),
        (",1,validation,,", "line 4 of .* has no path"),
        ("c.jpg,1,valid,,", "line 4 of .* has the split 'valid'"),
        ("c.jpg,1,validation,maybe,", "line 4 of .* has is_query 'maybe'"),
        ("c.jpg,1,train,True,", "line 4 of .* is a train row with is_query"),
        ("c.jpg,1,validation,False,False", "line 4 of .* is neither query nor gallery"),
        ("c.jpg,1,validation,True,", "in line 4 .*c.jpg lacks is_query or is_gallery"),
        ("c.jpg", "line 4 of .* has 1 field, but the first line names 5 columns"),
        ("c.jpg,wren, male,validation,True,True", "line 4 of .* has 6 fields, .* quote fields that hold a comma"),
        ("c.jpg,nan,validation,True,True", "line 4 of .* has the label 'nan', which means that there is none"),
        ("c.jpg,None,train,,", "line 4 of .* has the label 'None', which means that there is none"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_csv(table(tmp_path, line, "z.jpg,1,validation,True,True"))


@pytest.mark.parametrize("label", ["--1", "²", "9" * 5000, "-"])
def test_a_label_that_only_looks_like_a_number_is_text(tmp_path: Path, label: str) -> None:
    data = open_csv(table(tmp_path, f"c.jpg,{label},validation,,", "d.jpg,7,validation,,"))
    assert set(data.test.class_names) == {label, "7"}


def test_boxes_are_refused_as_nothing_would_crop_them(tmp_path: Path) -> None:
    header = "path,label,split,is_query,is_gallery,x_1,y_1,x_2,y_2\na.jpg,10,train,,,,,,\n"
    assert len(open_csv(table(tmp_path, "c.jpg,1,validation,,,,,,", header=header, train="")).test) == 1
    with pytest.raises(DataError, match=r"line 3 of .* has a box"):
        open_csv(table(tmp_path, "c.jpg,1,validation,,,0,0,9,9", header=header, train=""))


def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'path'"):
        open_csv(table(tmp_path, header="file,label,split,is_query,is_gallery\n"))
    with pytest.raises(DataError, match="has 2 train and 0 validation rows"):
        open_csv(table(tmp_path))
    (tmp_path / "set.csv").write_bytes(b"path,label,split\n\xff\xfe,1,train\n")
    with pytest.raises(DataError, match=r"line 2 of .*set\.csv is not text in UTF-8 \(byte 0xff\)"):
        open_csv(tmp_path / "set.csv")


@pytest.mark.parametrize(
    ("again", "line"),
    [
        ("c.jpg,1,validation,,", "line 4 \\(validation, label 1\\) and line 6 \\(validation, label 1\\)"),
        ("c.jpg,1,train,,", "line 4 .* and line 6 \\(train, label 1\\)"),
        ("c.jpg,2,validation,,", "line 4 .* and line 6 \\(validation, label 2\\)"),
        ("folder/../c.jpg,1,validation,,", "line 4 .* and line 6"),
        ("./c.jpg,1,validation,,", "line 4 .* and line 6"),
        ("linked/c.jpg,1,validation,,", "line 4 .* and line 6"),
        ("link.jpg,1,validation,,", "line 4 .* and line 6"),
        ("{folder}/c.jpg,1,validation,,", "line 4 .* and line 6"),
    ],
)
def test_an_image_that_is_listed_twice_is_refused_by_both_lines(tmp_path: Path, again: str, line: str) -> None:
    (tmp_path / "c.jpg").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "c.jpg")
    path = table(tmp_path, "c.jpg,1,validation,,", "d.jpg,1,validation,,", again.format(folder=tmp_path))
    with pytest.raises(DataError, match=f"lists the image .* twice, in {line}.*; remove one of the lines"):
        open_csv(path)


def test_names_that_only_look_alike_are_two_images(tmp_path: Path) -> None:
    """`linked/..` is where the link leads to and up from there, not the folder that holds the link."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "far" / "away")
    data = open_csv(table(tmp_path, "c.jpg,1,validation,,", "linked/../c.jpg,1,validation,,"))
    assert len(data.test) == 2


def test_the_fields_may_be_separated_by_semicolons_or_tabs(tmp_path: Path) -> None:
    for name, delimiter in (("a.csv", ";"), ("b.tsv", "\t"), ("c.csv", "\t")):
        rows = [["path", "label", "split"], ["a.jpg", "Acura, RL", "train"], ["b.jpg", "Ford, GT", "test"]]
        (tmp_path / name).write_text("\n".join(delimiter.join(row) for row in rows), encoding="utf-8")
        data = open_dataset(str(tmp_path / name))
        assert (data.train.class_names, data.test.class_names) == (("Acura, RL",), ("Ford, GT",))
