"""Stanford Online Products: 22,634 products from an auction site, with lists for training and test."""

from __future__ import annotations

from pathlib import Path

from embedding_expansion.data.images import Dataset, ImageSet, image_files
from embedding_expansion.data.official import (
    DatasetCounts,
    SplitCounts,
    count_split,
    name_of,
    present,
    read_table,
    refuse_shared,
)

EXPECTED = DatasetCounts(train=SplitCounts(11_318, 59_551), test=SplitCounts(11_316, 60_502))
#: The folders of a root in which the set is searched for.
FOLDERS = ("Stanford_Online_Products", "sop", "SOP", ".")


def is_products(folder: Path) -> bool:
    """Whether a folder has both lists."""
    return (folder / "Ebay_train.txt").exists() and (folder / "Ebay_test.txt").exists()


def open_products(folder: Path, part: bool, expected: DatasetCounts = EXPECTED) -> Dataset:
    """Reads Ebay_train.txt and Ebay_test.txt.

    Raises:
        DataError: a list is broken, images are missing, or the counts are not the official ones and `part` is False.
    """
    train, test = (_read_split(folder, f"Ebay_{split}.txt", part) for split in ("train", "test"))
    refuse_shared("Stanford Online Products", train.paths or (), test.paths or ())
    found = DatasetCounts(count_split(train), count_split(test))
    name = name_of("Stanford Online Products", found, expected, part)
    return Dataset(name, train, test, recall_at=(1, 10, 100, 1000))


def _read_split(folder: Path, listed: str, part: bool) -> ImageSet:
    rows = read_table(folder / listed, 4, skip=1, numbers=(1,), unique=(0, 3))  # image_id class_id super_class_id path
    there = present(folder, [row[3] for row in rows], part)
    kept = [(int(number), path) for _, number, _, path in rows if path in there]
    names = {number: f"{path.split('_final/')[0]} {number}" for number, path in kept}
    return image_files([folder / path for _, path in kept], [number for number, _ in kept], names)
