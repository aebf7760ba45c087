"""CUB-200-2011: 200 species of birds; the first 100 train, the last 100 test."""

from __future__ import annotations

from pathlib import Path

from embedding_expansion.data.images import Dataset, image_files
from embedding_expansion.data.official import DatasetCounts, SplitCounts, count_split, name_of, present, read_table
from embedding_expansion.errors import DataError

EXPECTED = DatasetCounts(train=SplitCounts(100, 5_864), test=SplitCounts(100, 5_924))
#: The counts of classes 1 to 50, if they are complete.
FIRST_50 = DatasetCounts(train=SplitCounts(25, 1_402), test=SplitCounts(25, 1_487))
#: The folders of a root in which the set is searched for.
FOLDERS = ("CUB_200_2011", "cub", "CUB_200_2011_first50", ".")


def is_birds(folder: Path) -> bool:
    """Whether a folder has the official layout."""
    return all((folder / name).exists() for name in ("images.txt", "classes.txt", "images"))


def open_birds(
    folder: Path, part: bool, expected: DatasetCounts = EXPECTED, first_50: DatasetCounts = FIRST_50
) -> Dataset:
    """Reads images.txt, classes.txt and image_class_labels.txt; without the latter, folders name the classes.

    If only a part of the set is there, the first half of its classes is the training split.

    Raises:
        DataError: a list is broken, images are missing, or the counts are not the official ones and `part` is False.
    """
    names = {int(number): name for number, name in read_table(folder / "classes.txt", 2, numbers=(0,), unique=(0,))}
    files = dict(read_table(folder / "images.txt", 2, unique=(0, 1)))
    there = present(folder / "images", files.values(), part)
    labels = _labels(folder, files, {name: number for number, name in names.items()})
    kept = [(labels[image], folder / "images" / file) for image, file in files.items() if file in there]
    classes = sorted({label for label, _ in kept})
    last = classes[len(classes) // 2 - 1] if len(classes) > 1 else 0
    train, test = (
        image_files([path for _, path in split], [label for label, _ in split], names)
        for split in ([pair for pair in kept if pair[0] <= last], [pair for pair in kept if pair[0] > last])
    )
    found = DatasetCounts(count_split(train), count_split(test))
    is_first_50 = found == first_50 and classes == list(range(1, len(classes) + 1))
    part_name = f"CUB-{len(classes)} (part of CUB-200-2011: classes 1-{len(classes)})" if is_first_50 else None
    return Dataset(name_of("CUB-200-2011", found, expected, part, part_name), train, test)


def _labels(folder: Path, files: dict[str, str], numbers: dict[str, int]) -> dict[str, int]:
    """The class of each image, by the image's id."""
    listed = folder / "image_class_labels.txt"
    if listed.exists():
        labels = {image: int(label) for image, label in read_table(listed, 2, numbers=(1,), unique=(0,))}
    else:
        labels = {image: numbers.get(file.split("/")[0], 0) for image, file in files.items()}
    known = set(numbers.values())
    for image, file in files.items():
        if labels.get(image) not in known:
            raise DataError(f"image {image} ({file}) in {folder} has no class in classes.txt; unpack the set again")
    return labels
