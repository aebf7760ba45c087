"""Opens a data set by its name or its path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.checks import as_limit, as_whole, validates
from embedding_expansion.data import birds, cars, inshop, omniglot, products
from embedding_expansion.data.csv_table import open_csv
from embedding_expansion.data.finding import is_vector_file
from embedding_expansion.data.folder import open_folder
from embedding_expansion.data.glyphs import open_glyphs
from embedding_expansion.data.images import Dataset
from embedding_expansion.data.official import DatasetCounts
from embedding_expansion.data.prepared import is_prepared
from embedding_expansion.data.prepared_set import open_prepared
from embedding_expansion.data.sources import search_folders
from embedding_expansion.data.table import TABLE_SUFFIXES
from embedding_expansion.data.vectors import open_vectors
from embedding_expansion.errors import DataError, InvalidInput, UnknownName


@dataclass(frozen=True)
class DatasetLayout:
    """How a named data set on disk is found, recognised and opened.

    Attributes:
        title: the name of the set in outputs.
        folders: the folders of a root in which the set is searched for, "." for the root.
        is_here: whether a folder holds the set.
        open: opens a folder; the second argument is whether a part of the set is accepted.
        expected: the official counts.
    """

    title: str
    folders: tuple[str, ...]
    is_here: Callable[[Path], bool]
    open: Callable[[Path, bool], Dataset]
    expected: DatasetCounts

    def find(self, root: Path | None) -> Path | None:
        """The first folder that holds the set, by `search_folders` and `folders`; None if there is none."""
        candidates = (base / name for base in search_folders(root) for name in self.folders)
        return next((folder for folder in candidates if self.is_here(folder)), None)


#: Every data set that has a name; None for the embedded set, which is not on disk.
DATASETS: dict[str, DatasetLayout | None] = {
    "glyphs": None,
    "omniglot": DatasetLayout(
        "Omniglot", omniglot.FOLDERS, omniglot.is_omniglot, omniglot.open_omniglot, omniglot.EXPECTED
    ),
    "cub": DatasetLayout("CUB-200-2011", birds.FOLDERS, birds.is_birds, birds.open_birds, birds.EXPECTED),
    "cars": DatasetLayout("CARS196", cars.FOLDERS, cars.is_cars, cars.open_cars, cars.EXPECTED),
    "sop": DatasetLayout(
        "Stanford Online Products", products.FOLDERS, products.is_products, products.open_products, products.EXPECTED
    ),
    "inshop": DatasetLayout("In-Shop", inshop.FOLDERS, inshop.is_inshop, inshop.open_inshop, inshop.EXPECTED),
}


@validates
def open_dataset(
    name_or_path: str,
    *,
    root: Path | None = None,
    part: bool = False,
    train_classes: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Opens a data set.

    Args:
        name_or_path: a name from `DATASETS`, or a path: of a folder of class folders, of a .csv or .tsv file, of an
            .npz or .parquet file with vectors (see `vectors`), of a folder with the official layout of a named set,
            which is opened as that set, or of a folder of shrunk images (see `preparing`), which is opened as the set
            that was shrunk.
        root: the folder in which to search for a named set; by default $EMBEX_DATA if set, `./data`, and the cache
            folder.
        part: whether to accept a part of a named set. The name of the data set then says that it is a part.
        train_classes: for a folder of class folders or for vectors, how many classes to train on; by default half.
        seed: of the glyphs; the other sets are not random.

    Raises:
        UnknownName: the argument is not a known name and does not look like a path.
        DataError: the set is not found, incomplete or broken.
        InvalidInput: `train_classes` is given for a set that defines its split.
    """
    train_classes, seed = as_limit(train_classes, "train_classes"), as_whole(seed, "seed", least=0)
    path = Path(name_or_path).expanduser()
    is_named = name_or_path in DATASETS
    has_manifest = not is_named and is_prepared(path)
    layout = DATASETS[name_or_path] if is_named else recognise(path)
    is_folder = not is_named and layout is None and path.is_dir() and not has_manifest
    if not is_named and is_vector_file(path) and path.is_file():
        return open_vectors(path, train_classes)
    if train_classes is not None and not is_folder:
        raise InvalidInput(
            f"train_classes is {train_classes}, but {name_or_path} already has a split; pass train_classes only for a "
            "folder of class folders or for vectors"
        )
    if has_manifest:
        return open_prepared(path)
    if layout is not None:
        return layout.open(_found(name_or_path, layout, root) if is_named else path, part)
    if is_named:
        return open_glyphs(seed)
    if is_folder:
        return open_folder(path, train_classes)
    if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
        return open_csv(path)
    if path.exists():
        raise DataError(
            f"{path} is neither a folder nor a .csv, .tsv, .npz or .parquet file; pass one of these, or a name"
        )
    if path.suffix or len(path.parts) > 1:
        raise DataError(
            f"there is no folder or file {path}; check the path, or pass one of the names {', '.join(DATASETS)}"
        )
    raise UnknownName("data set (nor a folder of class folders)", name_or_path, DATASETS)


def recognise(folder: Path) -> DatasetLayout | None:
    """The named set whose official layout a folder has; None if there is none."""
    if not folder.is_dir():
        return None
    try:
        return next((layout for layout in DATASETS.values() if layout is not None and layout.is_here(folder)), None)
    except PermissionError:  # opening the folder reports the error
        return None


def _found(name: str, layout: DatasetLayout, root: Path | None) -> Path:
    folder = layout.find(root)
    if folder is None:
        tried = ", ".join(str(base) for base in search_folders(root))
        raise DataError(
            f"{layout.title} was not found in {tried} (as a folder {', '.join(layout.folders[:-1])}); "
            f"unpack it there, or set EMBEX_DATA to its folder (embex data {name} says how to get it)"
        )
    return folder
