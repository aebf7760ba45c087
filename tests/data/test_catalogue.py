from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from embedding_expansion.data.catalogue import describe
from embedding_expansion.data.datasets import DATASETS, open_dataset
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.inspection import inspect_dataset
from embedding_expansion.data.official import count_split
from embedding_expansion.data.sources import SOURCES

Picture = Callable[..., Path]


def test_every_set_is_listed_with_where_it_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "sop").mkdir()
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        (tmp_path / "sop" / name).touch()
    listed = {listing.name: listing for listing in describe(tmp_path)}
    assert list(listed) == list(DATASETS) == list(SOURCES)
    assert listed["sop"].found == tmp_path / "sop"
    assert listed["cub"].found is None
    assert tmp_path / "CUB_200_2011" in listed["cub"].looked_for
    assert [name for name, listing in listed.items() if listing.downloadable] == ["omniglot", "cub", "sop"]
    assert [name for name, listing in listed.items() if listing.is_embedded] == ["glyphs"]


def test_the_listed_counts_of_the_glyphs_are_those_that_open() -> None:
    counts, data = describe()[0].counts, open_dataset("glyphs")
    assert (counts.train, counts.test) == (count_split(data.train), count_split(data.test))


def test_an_inspection_finds_broken_files_small_classes_and_shared_ones(tmp_path: Path, picture: Picture) -> None:
    for place in ("train/a/1", "train/a/2", "train/b/1", "test/b/1", "test/b/2"):
        picture(tmp_path / f"{place}.png", size=(5, 7))
    picture(tmp_path / "train/a/3.png", size=(20, 10))
    (tmp_path / "train/a/2.png").write_bytes(b"no image")
    (tmp_path / "train/c").mkdir()
    report = inspect_dataset(open_dataset(str(tmp_path)))
    assert (report.name, report.shared_classes) == (tmp_path.name, ("b",))
    train = report.train
    assert (train.classes, train.images, train.smallest_class, train.smallest_count) == (2, 4, "b", 1)
    assert (train.single_classes, train.sizes) == (1, ((5, 7), (20, 10)))
    assert [path.name for path in train.broken] == ["2.png"]
    assert not report.test.broken
    assert report.equal_bytes == tuple((tmp_path / "train/a/1.png", tmp_path / f"test/b/{n}.png") for n in (1, 2))
    assert report.left_out == f"folders without images: {tmp_path / 'train/c'}"
    assert not inspect_dataset(open_dataset(str(tmp_path)), decode_all=False).train.broken  # looks at the first only


def test_an_inspection_counts_queries_and_gallery() -> None:
    mark = np.array([True, True, False])
    side = ImageSet(
        np.zeros(3, np.int64), ("a",), pixels=np.zeros((3, 1, 2, 2), np.uint8), is_query=mark, is_gallery=~mark
    )
    report = inspect_dataset(Dataset("set", side, side))
    assert (report.test.queries, report.test.gallery) == (2, 1)
