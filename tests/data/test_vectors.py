"""Files of vectors: what is read is what was written, and what cannot be used is one sentence."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.vectors import open_vectors, read_vectors
from embedding_expansion.errors import DataError, InvalidInput

ROWS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
LABELS = np.repeat([7, 3, 11, 5], 3)
SPLIT = np.array(["train", "test"] * 6)


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "some.npz", **arrays)
    return folder / "some.npz"


def parquet(folder: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "some.parquet")
    return folder / "some.parquet"


def test_both_formats_give_what_was_written(tmp_path: Path) -> None:
    for path in (
        npz(tmp_path, embeddings=ROWS, labels=LABELS, split=SPLIT, other=np.zeros(3)),
        parquet(tmp_path, features=list(ROWS), labels=LABELS, split=SPLIT, other=LABELS),
        parquet(tmp_path, features=pyarrow.FixedSizeListArray.from_arrays(ROWS.ravel(), 5), labels=LABELS, split=SPLIT),
    ):
        found = read_vectors(path)
        assert np.array_equal(found.rows, ROWS)
        assert found.class_names == ("3", "5", "7", "11")
        assert [int(found.class_names[label]) for label in found.labels] == LABELS.tolist()
        assert found.is_train is not None
        assert np.array_equal(found.is_train, SPLIT == "train")


def test_a_split_decides_and_each_side_numbers_its_own_classes(tmp_path: Path) -> None:
    side = np.where(np.isin(LABELS, [11, 3]), "train", "test")
    dataset = open_dataset(str(npz(tmp_path, embeddings=ROWS, labels=LABELS, split=side)))
    assert dataset.train.class_names == ("3", "11")
    assert dataset.test.class_names == ("5", "7")
    assert dataset.train.labels.tolist() == [0] * 3 + [1] * 3
    assert dataset.train.pixels is not None
    assert np.array_equal(dataset.train.pixels[:, :, 0, 0], ROWS[3:9])
    assert dataset.train.holds_vectors


def test_names_stay_with_their_vectors(tmp_path: Path) -> None:
    names = np.array([f"text {i}" for i in range(12)])
    for path in (
        npz(tmp_path, embeddings=ROWS, labels=LABELS, names=names),
        parquet(tmp_path, features=list(ROWS), labels=LABELS, names=names),
    ):
        dataset = open_dataset(str(path))
        for side in (dataset.train, dataset.test, dataset.test.subset([4, 1])):
            assert side.pixels is not None
            for index in range(len(side)):
                assert side.called(index) == names[(side.pixels[index, :, 0, 0] == ROWS).all(axis=1)][0]
    with pytest.raises(DataError, match=r"names in .* save 12 texts"):
        read_vectors(npz(tmp_path, embeddings=ROWS, labels=LABELS, names=np.arange(12)))


def test_without_a_split_the_first_half_of_the_classes_trains(tmp_path: Path) -> None:
    path = npz(tmp_path, embeddings=ROWS, labels=np.repeat(["d", "a", "c", "b"], 3))
    assert open_vectors(path).train.class_names == ("a", "b")
    assert open_vectors(path, train_classes=3).train.class_names == ("a", "b", "c")
    with pytest.raises(InvalidInput, match="pass 1 to 3"):
        open_vectors(path, train_classes=4)
    with pytest.raises(InvalidInput, match="has a split; do not pass train_classes"):
        open_vectors(npz(tmp_path, embeddings=ROWS, labels=LABELS, split=SPLIT), train_classes=2)


NAN = ROWS.copy()
NAN[4, 2] = np.nan


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"embeddings": ROWS}, "save it with embeddings"),
        ({"labels": LABELS}, "save it with either embeddings"),
        ({"embeddings": ROWS, "features": ROWS, "labels": LABELS}, "holds embeddings, features, labels"),
        ({"embeddings": ROWS[0], "labels": LABELS}, r"float32 of shape \(5,\)"),
        ({"embeddings": ROWS[:0], "labels": LABELS[:0]}, r"shape \(0, 5\)"),
        ({"embeddings": ROWS.astype(str), "labels": LABELS}, "save numbers of shape"),
        ({"embeddings": ROWS.astype(complex), "labels": LABELS}, "save numbers of shape"),
        ({"embeddings": NAN, "labels": LABELS}, "in 1 rows, the first is row 4"),
        ({"embeddings": np.full((12, 2), 1e300), "labels": LABELS}, "infinite in 12 rows"),
        ({"embeddings": ROWS, "labels": LABELS[:5]}, "12 whole numbers or texts"),
        ({"embeddings": ROWS, "labels": LABELS / 2}, "labels .* is float64"),
        ({"embeddings": ROWS, "labels": LABELS, "split": SPLIT[:3]}, "save 12 texts, train or test"),
        ({"embeddings": ROWS, "labels": LABELS, "split": np.full(12, "val")}, "save 12 texts, train or test"),
        ({"embeddings": ROWS, "labels": LABELS, "split": np.full(12, "test")}, "0 train and 12 test"),
        ({"embeddings": ROWS, "labels": LABELS * 0}, "has 1 class"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(arrays: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        open_vectors(npz(tmp_path, **arrays))


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trap = np.array([Trap()] * 12, dtype=object)
    np.savez(tmp_path / "a.npz", embeddings=ROWS, labels=trap, allow_pickle=True)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(DataError, match="without objects"):
            read_vectors(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"features": [[1.0, 2.0], [3.0]], "labels": [0, 1]}, "differ in length"),
        ({"features": [[1.0], [2.0, 3.0, 4.0]], "labels": [0, 1]}, "differ in length"),
        ({"features": [[1.0, None], [3.0, 4.0]], "labels": [0, 1]}, "empty entries"),
        ({"features": [[1.0, 2.0], None], "labels": [0, 1]}, "1 empty entries"),
        ({"features": [[1.0, 2.0], [3.0, 4.0]], "labels": [0, None]}, "1 empty entries"),
        ({"features": [1.0, 2.0], "labels": [0, 1]}, r"float64 of shape \(2,\)"),
    ],
)
def test_odd_columns_are_one_sentence(columns: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        read_vectors(parquet(tmp_path, **columns))


def test_damage_a_missing_file_and_a_missing_library_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (npz(tmp_path, embeddings=ROWS, labels=LABELS), parquet(tmp_path, features=list(ROWS), labels=LABELS)):
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(DataError, match="cannot be read as"):
            read_vectors(path)
    with pytest.raises(DataError, match="there is no file"):
        read_vectors(tmp_path / "gone.npz")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput, match="pip install 'embedding-expansion"):
        read_vectors(tmp_path / "some.parquet")
