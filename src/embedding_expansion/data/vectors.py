"""Vectors from elsewhere with their labels, of any modality: text, tables, sound, another network's embeddings.

| array                        | value                                                           |
|------------------------------|-----------------------------------------------------------------|
| `embeddings` (or `features`) | floating-point or whole numbers, shape (n, d)                   |
| `labels`                     | n whole numbers or texts, the classes                           |
| `split`                      | optional: n texts, `train` or `test`                            |
| `names`                      | optional: n texts, what each vector is called or stands for     |

In an .npz (arrays of these names; nothing is unpickled) or a .parquet (columns of these names, the vectors as lists).
Without a split the first half of the classes, in the order of their labels, trains, and the rest tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.npz import read_npz
from embedding_expansion.errors import DataError, InvalidInput

_NAMES = ("embeddings", "features")
_READ = (*_NAMES, "labels", "split", "names")


@dataclass(frozen=True, eq=False)
class Vectors:
    """What such a file holds.

    Attributes:
        rows: float32, shape (n, d), finite.
        labels: n numbers of `class_names`.
        class_names: the classes in ascending order of their labels.
        is_train: n booleans, or None where the file has no split.
        names: n texts, or None where the file has none.
    """

    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    is_train: npt.NDArray[np.bool_] | None
    names: npt.NDArray[Any] | None = None

    def side(self, chosen: npt.NDArray[np.bool_]) -> ImageSet:
        """Some of the vectors as images of one pixel, whose channels are the dimensions; classes numbered anew."""
        kept, labels = np.unique(self.labels[chosen], return_inverse=True)
        classes = tuple(self.class_names[index] for index in kept)
        names = None if self.names is None else tuple(self.names[chosen].tolist())
        return ImageSet(labels.astype(np.int64), classes, pixels=self.rows[chosen][:, :, None, None], names=names)


def open_vectors(path: Path, train_classes: int | None = None) -> Dataset:
    """Opens such a file as a data set.

    Args:
        path: of the file.
        train_classes: where there is no split: how many classes train, instead of half of them.

    Raises:
        DataError: the file cannot be read, lacks an array, or holds something else than the table above says.
        InvalidInput: `train_classes` leaves a side empty, or is given where the file has a split.
    """
    vectors = read_vectors(path)
    is_train = vectors.is_train
    if is_train is None:
        count, first = len(vectors.class_names), train_classes
        if count < 2:
            raise DataError(f"{path} has 1 class; at least two are needed, to train on and to test on")
        if first is not None and not 0 < first < count:
            raise InvalidInput(f"train_classes is {first} but {path} has {count} classes; give 1 to {count - 1}")
        is_train = vectors.labels < (count // 2 if first is None else first)
    elif train_classes is not None:
        raise InvalidInput(f"{path} has a split of its own; leave train_classes away")
    if is_train.all() or not is_train.any():
        raise DataError(f"{path} has {is_train.sum()} train and {(~is_train).sum()} test rows; both sides are needed")
    return Dataset(path.stem, vectors.side(is_train), vectors.side(~is_train), transform="none")


def read_vectors(path: Path) -> Vectors:
    """Reads such a file.

    Raises:
        DataError: the file cannot be read, lacks an array, or holds something else than the table above says.
        InvalidInput: a .parquet without the library pyarrow.
    """
    rows, arrays = read_rows(path)
    if "labels" not in arrays:
        raise DataError(f"{path} holds no labels; it needs embeddings (or features) and labels")
    names, labels = _classes(path, arrays["labels"], len(rows))
    is_train = _is_train(path, arrays["split"], len(rows)) if "split" in arrays else None
    called = check_names(path, arrays["names"], len(rows)) if "names" in arrays else None
    return Vectors(rows, labels, names, is_train, called)


def read_rows(path: Path) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]]]:
    """Reads the vectors of such a file, which may here be without labels, and the other arrays as they stand.

    Raises:
        DataError: the file cannot be read, or holds no vectors.
        InvalidInput: a .parquet without the library pyarrow.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; pass an .npz or a .parquet with vectors")
    arrays = _read_parquet(path) if path.suffix.lower() == ".parquet" else read_npz(path, _READ)
    found = [name for name in _NAMES if name in arrays]
    if len(found) != 1:
        raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; it needs embeddings (or features)")
    return _rows(path, found[0], arrays.pop(found[0])), arrays


def _read_parquet(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInput(f"{path} needs the library pyarrow; pip install 'embedding-expansion[parquet]'") from error
    try:
        known = pyarrow.parquet.read_schema(path).names  # type: ignore[no-untyped-call]
        table = pyarrow.parquet.read_table(path, columns=[n for n in _READ if n in known])  # type: ignore[no-untyped-call]
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            if column.null_count:
                raise ValueError(f"{name} has {column.null_count} empty entries")
            is_list = name in _NAMES and hasattr(column, "flatten") and pyarrow.types.is_nested(column.type)
            arrays[name] = _matrix(column) if is_list else np.array(column.to_pylist())
        return arrays
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read as .parquet ({error}); write the vectors as lists of numbers"
        ) from error


def _matrix(column: Any) -> npt.NDArray[Any]:
    """A column of lists as a matrix."""
    from pyarrow import compute

    measure: Any = compute  # its functions are made when it is loaded, so that no type checker knows them
    lengths, entries = set(measure.list_value_length(column).to_pylist()), column.flatten()
    if len(lengths) > 1 or entries.null_count:
        raise ValueError("its lists differ in length, or have empty entries")
    values: npt.NDArray[Any] = entries.to_numpy(zero_copy_only=False)
    return values.reshape(len(column), lengths.pop() if lengths else 0)


def _rows(path: Path, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype.kind not in "fiu" or values.ndim != 2 or 0 in values.shape:
        raise DataError(f"{name} in {path} is {values.dtype} of shape {values.shape}; it must be numbers, (n, d)")
    with np.errstate(over="ignore"):
        rows = values.astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(odd):
        raise DataError(f"{name} in {path} is NaN or infinite in {len(odd)} rows, the first is row {odd[0]}; mend them")
    return rows


def check_labels(path: Path, labels: npt.NDArray[Any], count: int) -> None:
    """Refuses what is not a label for each row.

    Raises:
        DataError: the labels are of another kind or number.
    """
    if labels.dtype.kind not in "iuUb" or labels.shape != (count,):
        raise DataError(
            f"labels in {path} is {labels.dtype} of shape {labels.shape}; it must be {count} whole numbers or texts, "
            "one for each row"
        )


def _classes(path: Path, labels: npt.NDArray[Any], count: int) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    check_labels(path, labels, count)
    known, numbers = np.unique(labels, return_inverse=True)
    return tuple(str(label) for label in known), numbers.astype(np.int64)


def check_names(path: Path, names: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """The names, which must be a text for each row.

    Raises:
        DataError: they are of another kind or number.
    """
    if names.dtype.kind != "U" or names.shape != (count,):
        raise DataError(f"names in {path} is {names.dtype} of shape {names.shape}; it must be {count} texts")
    return names


def _is_train(path: Path, split: npt.NDArray[Any], count: int) -> npt.NDArray[np.bool_]:
    if split.dtype.kind != "U" or split.shape != (count,) or not np.isin(split, ["train", "test"]).all():
        raise DataError(f"split in {path} must be {count} times train or test, one for each row")
    is_train: npt.NDArray[np.bool_] = split == "train"
    return is_train
