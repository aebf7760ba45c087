"""Reads files of vectors with labels, of any modality: embeddings of text, tables, sound or another network.

| array                        | value                                                           |
|------------------------------|-----------------------------------------------------------------|
| `embeddings` (or `features`) | floating-point or whole numbers, shape (n, d)                   |
| `labels`                     | n whole numbers or texts, the classes                           |
| `split`                      | optional: n texts, `train` or `test`                            |
| `names`                      | optional: n texts, the names of the vectors or their sources    |

The file is an .npz with arrays of these names (nothing is unpickled), or a .parquet with columns of these names, in
which the vectors are lists. Without `split`, the first half of the classes by label is the training split, the rest the
test split.
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
    """The content of a file of vectors.

    Attributes:
        rows: (n, d), float32, finite.
        labels: (n,), indices of `class_names`.
        class_names: the classes in ascending order of their labels.
        is_train: (n,), bool, whether a vector is in the training split; None if the file has no split.
        names: (n,), texts; None if the file has no names.
    """

    rows: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    is_train: npt.NDArray[np.bool_] | None
    names: npt.NDArray[Any] | None = None

    def as_images(self, chosen: npt.NDArray[np.bool_]) -> ImageSet:
        """Some of the vectors as images of one pixel whose channels are the dimensions, with classes renumbered."""
        kept, labels = np.unique(self.labels[chosen], return_inverse=True)
        classes = tuple(self.class_names[index] for index in kept)
        names = None if self.names is None else tuple(self.names[chosen].tolist())
        return ImageSet(labels.astype(np.int64), classes, pixels=self.rows[chosen][:, :, None, None], names=names)


def open_vectors(path: Path, train_classes: int | None = None) -> Dataset:
    """Opens a file of vectors as a data set.

    Args:
        path: of the file.
        train_classes: for a file without a split, how many classes to train on; None for half of them.

    Raises:
        DataError: the file cannot be read, lacks an array, or an array is not as in the table above.
        InvalidInput: `train_classes` leaves a split empty, or is given although the file has a split.
    """
    vectors = read_vectors(path)
    is_train = vectors.is_train
    if is_train is None:
        count, first = len(vectors.class_names), train_classes
        if count < 2:
            raise DataError(f"{path} has 1 class; add at least one, since training and test need different classes")
        if first is not None and not 0 < first < count:
            raise InvalidInput(f"train_classes is {first} but {path} has {count} classes; pass 1 to {count - 1}")
        is_train = vectors.labels < (count // 2 if first is None else first)
    elif train_classes is not None:
        raise InvalidInput(f"train_classes is {train_classes}, but {path} has a split; do not pass train_classes")
    if is_train.all() or not is_train.any():
        raise DataError(f"{path} has {is_train.sum()} train and {(~is_train).sum()} test rows; add rows of both splits")
    return Dataset(path.stem, vectors.as_images(is_train), vectors.as_images(~is_train), transform="none")


def read_vectors(path: Path) -> Vectors:
    """Reads a file of vectors with labels.

    Raises:
        DataError: the file cannot be read, lacks an array, or an array is not as in the table above.
        InvalidInput: the file is a .parquet, but pyarrow is not installed.
    """
    rows, arrays = read_rows(path)
    if "labels" not in arrays:
        raise DataError(f"{path} has no labels; save it with embeddings (or features) and labels")
    names, labels = _classes(path, arrays["labels"], len(rows))
    is_train = _is_train(path, arrays["split"], len(rows)) if "split" in arrays else None
    called = check_names(path, arrays["names"], len(rows)) if "names" in arrays else None
    return Vectors(rows, labels, names, is_train, called)


def read_rows(path: Path) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[Any]]]:
    """Reads the vectors of a file, which need not have labels, and its other arrays unchecked.

    Raises:
        DataError: the file cannot be read, or has no vectors.
        InvalidInput: the file is a .parquet, but pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; pass an .npz or .parquet file with vectors")
    arrays = _read_parquet(path) if path.suffix.lower() == ".parquet" else read_npz(path, _READ)
    found = [name for name in _NAMES if name in arrays]
    if len(found) != 1:
        raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; save it with either embeddings or features")
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
    """Converts a column of lists to a matrix."""
    from pyarrow import compute

    measure: Any = compute  # its functions are made at import, so type checkers do not know them
    lengths, entries = set(measure.list_value_length(column).to_pylist()), column.flatten()
    if len(lengths) > 1 or entries.null_count:
        raise ValueError("its lists differ in length, or have empty entries")
    values: npt.NDArray[Any] = entries.to_numpy(zero_copy_only=False)
    return values.reshape(len(column), lengths.pop() if lengths else 0)


def _rows(path: Path, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype.kind not in "fiu" or values.ndim != 2 or 0 in values.shape:
        raise DataError(
            f"{name} in {path} is {values.dtype} of shape {values.shape}; save numbers of shape (n, d) instead"
        )
    with np.errstate(over="ignore"):
        rows = values.astype(np.float32)
    odd = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(odd):
        raise DataError(
            f"{name} in {path} is NaN or infinite in {len(odd)} rows, the first is row {odd[0]}; correct or remove them"
        )
    return rows


def check_labels(path: Path, labels: npt.NDArray[Any], count: int) -> None:
    """Checks that there is one label for each row.

    Raises:
        DataError: the labels have another type or number.
    """
    if labels.dtype.kind not in "iuUb" or labels.shape != (count,):
        raise DataError(
            f"labels in {path} is {labels.dtype} of shape {labels.shape}; save {count} whole numbers or texts, one for "
            "each row"
        )


def _classes(path: Path, labels: npt.NDArray[Any], count: int) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    check_labels(path, labels, count)
    known, numbers = np.unique(labels, return_inverse=True)
    return tuple(str(label) for label in known), numbers.astype(np.int64)


def check_names(path: Path, names: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Checks that there is one name for each row, and returns the names.

    Raises:
        DataError: the names have another type or number.
    """
    if names.dtype.kind != "U" or names.shape != (count,):
        raise DataError(
            f"names in {path} is {names.dtype} of shape {names.shape}; save {count} texts, one for each row"
        )
    return names


def _is_train(path: Path, split: npt.NDArray[Any], count: int) -> npt.NDArray[np.bool_]:
    if split.dtype.kind != "U" or split.shape != (count,) or not np.isin(split, ["train", "test"]).all():
        raise DataError(
            f"split in {path} is {split.dtype} of shape {split.shape}; save {count} texts, train or test for each row"
        )
    is_train: npt.NDArray[np.bool_] = split == "train"
    return is_train
