"""On real images: skipped with a reason where EMBEX_REAL_DATA is not set."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.inspection import inspect_dataset
from embedding_expansion.data.loader import batches
from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.data.transforms import train_transform
from embedding_expansion.errors import DataError


@pytest.fixture(scope="module")
def unpacked(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for name in ("cub50_144.tar", "cars8144_bbox_128.tar"):
        with tarfile.open(real_data / "data" / name) as archive:
            archive.extractall(folder, filter="data")
    return folder


def test_the_fifty_classes_of_birds_open_as_the_part_they_are(unpacked: Path) -> None:
    data = open_dataset("cub", root=unpacked, part=True)
    assert data.name == "CUB-50 (part of CUB-200-2011: classes 1-50)"
    assert (len(data.train), len(data.train.classes)) == (1402, 25)
    assert (len(data.test), len(data.test.classes)) == (1487, 25)
    with pytest.raises(DataError, match="pass part=True"):
        open_dataset("cub", root=unpacked)


def test_the_train_half_of_the_cars_opens_as_the_part_it_is(unpacked: Path) -> None:
    data = open_dataset("cars", root=unpacked, part=True)
    assert data.name == "CARS196-half (part of CARS196: the official train half, cropped)"
    assert (len(data.train), len(data.train.classes)) == (4052, 98)
    assert (len(data.test), len(data.test.classes)) == (4092, 98)
    with pytest.raises(DataError, match="pass part=True"):
        open_dataset("cars", root=unpacked)


def test_no_real_bird_is_broken(unpacked: Path) -> None:
    report = inspect_dataset(open_dataset("cub", root=unpacked, part=True))
    assert not report.train.broken
    assert not report.test.broken
    assert report.train.smallest_count >= 40


def test_real_photographs_give_the_same_batches_in_worker_processes(unpacked: Path) -> None:
    images = open_dataset("cub", root=unpacked, part=True).train
    sampler = ClassBalancedSampler(images.labels, 8, 2, seed=0)
    here, there = (
        list(batches(images, sampler, train_transform(64, "paper"), seed=0, start=3, stop=6, workers=workers))
        for workers in (0, 2)
    )
    for (_, ours, labels), (_, theirs, _) in zip(here, there, strict=True):
        assert ours.shape == (16, 3, 64, 64)
        assert torch.equal(ours, theirs)
        assert ours.float().std() > 20
        assert np.array_equal(labels.unique().numpy(), np.unique(labels))


def test_omniglot_is_whole_and_read_from_its_zips(real_data: Path) -> None:
    data = open_dataset("omniglot", root=real_data / "data")
    assert data.name == "Omniglot"
    assert (len(data.train.classes), len(data.test.classes)) == (964, 659)
    assert data.train.pixels is not None
    assert (np.bincount(data.train.labels) == 20).all()
    assert 0.02 < (data.train.pixels[::97] > 0).mean() < 0.2  # strokes are the few white pixels
    assert set(np.unique(data.train.pixels[::97]).tolist()) == {0, 255}
