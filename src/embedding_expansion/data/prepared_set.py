"""Opens a prepared set as the data set from which it was made: the same splits, classes and order."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np

from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.prepared import MANIFEST, Prepared, PreparedSplit
from embedding_expansion.errors import DataError, InvalidInput


def open_prepared(folder: Path) -> Dataset:
    """Opens a folder that `preparing.prepare_images` has made. Outputs show the names of the originals.

    Raises:
        DataError: the set is not complete, or its manifest is broken.
    """
    prepared = Prepared.read(folder)
    try:
        train, test = (_image_set(folder, split) for split in (prepared.train, prepared.test))
    except (InvalidInput, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{folder / MANIFEST} is broken ({error}); remove {folder}, and prepare it again") from error
    return Dataset(prepared.name, train, test, tuple(prepared.recall_at), prepared.transform, prepared=prepared)


def _image_set(folder: Path, split: PreparedSplit) -> ImageSet:
    return ImageSet(
        np.array(split.labels, dtype=np.int64),
        tuple(split.class_names),
        paths=tuple(folder / name for name in split.files),
        names=tuple(PurePath(name).name for name in split.originals),
        is_query=None if split.is_query is None else np.array(split.is_query, dtype=np.bool_),
        is_gallery=None if split.is_gallery is None else np.array(split.is_gallery, dtype=np.bool_),
    )
