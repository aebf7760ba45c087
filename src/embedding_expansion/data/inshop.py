"""In-Shop Clothes Retrieval (DeepFashion): 7,982 pieces of clothing; each test image is a query or in the gallery."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from embedding_expansion.data.images import Dataset, image_files
from embedding_expansion.data.official import DatasetCounts, SplitCounts, count_split, name_of, present, read_table
from embedding_expansion.errors import DataError

EXPECTED = DatasetCounts(
    train=SplitCounts(3_997, 25_882), test=SplitCounts(3_985, 26_830, queries=14_218, gallery=12_612)
)
#: The folders of a root in which the set is searched for.
FOLDERS = ("In-shop Clothes Retrieval Benchmark", "In-Shop", "inshop", "In_shop", ".")


def is_inshop(folder: Path) -> bool:
    """Whether a folder has the partition list."""
    return _list(folder).exists()


def open_inshop(folder: Path, part: bool, expected: DatasetCounts = EXPECTED) -> Dataset:
    """Reads list_eval_partition.txt, in the folder or in Eval/; the images are in img/, in the folder or in Img/.

    Raises:
        DataError: the list is broken, images are missing, or the counts are not the official ones and `part` is False.
    """
    rows = read_table(_list(folder), 3, skip=2, unique=(0,))  # image_name item_id evaluation_status
    unknown = {status for _, _, status in rows} - {"train", "query", "gallery"}
    if unknown:
        raise DataError(
            f"{_list(folder)} has the evaluation status {sorted(unknown)[0]!r}, but train, query or gallery is "
            "expected; unpack the set again"
        )
    base = folder if (folder / "img").is_dir() else folder / "Img"
    there = present(base, [name for name, _, _ in rows], part)
    rows = [row for row in rows if row[0] in there]
    tested = [row for row in rows if row[2] != "train"]
    train, test = (
        image_files([base / name for name, _, _ in split], [item for _, item, _ in split])
        for split in ([row for row in rows if row[2] == "train"], tested)
    )
    is_query = np.array([status == "query" for _, _, status in tested], dtype=np.bool_)
    test = replace(test, is_query=is_query, is_gallery=~is_query)
    found = DatasetCounts(count_split(train), count_split(test))
    return Dataset(name_of("In-Shop", found, expected, part), train, test, recall_at=(1, 10, 20, 30))


def _list(folder: Path) -> Path:
    name = "list_eval_partition.txt"
    return folder / "Eval" / name if (folder / "Eval" / name).exists() else folder / name
