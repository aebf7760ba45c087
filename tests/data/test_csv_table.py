from __future__ import annotations

from pathlib import Path

import pytest

from embedding_expansion.data.csv_table import open_csv
from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.errors import DataError

HEADER = "path,label,split,is_query,is_gallery\n"
TRAIN = "a.jpg,10,train,,\nb.jpg,9,train,,\n"


def table(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "set.csv"
    path.write_text(header + TRAIN + "".join(f"{line}\n" for line in lines), encoding="utf-8")
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
        ("c.jpg,1,validation,True,", "c.jpg lacks is_query or is_gallery"),
        ("c.jpg", "line 4 of .* has no label"),
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
    header = HEADER.strip() + ",x_1,y_1,x_2,y_2\n"
    assert len(open_csv(table(tmp_path, "c.jpg,1,validation,,,,,,", header=header)).test) == 1
    with pytest.raises(DataError, match=r"line 4 of .* has a box"):
        open_csv(table(tmp_path, "c.jpg,1,validation,,,0,0,9,9", header=header))


def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'path'"):
        open_csv(table(tmp_path, header="file,label,split\n"))
    with pytest.raises(DataError, match="has 2 train and 0 validation rows"):
        open_csv(table(tmp_path))
    (tmp_path / "set.csv").write_bytes(b"path,label,split\n\xff\xfe,1,train\n")
    with pytest.raises(DataError, match="cannot be read as a CSV file in UTF-8"):
        open_csv(tmp_path / "set.csv")
