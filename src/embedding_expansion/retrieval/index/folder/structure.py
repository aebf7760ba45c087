"""The faiss structures: built from the rows, saved to a file, and used only if the checksum of the file is right."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.files import replacing

LINKS = 32  # links from a point of the graph to its neighbours
BREADTH_OF_BUILDING = 100
BREADTH = 128  # the fewest points that a search of the graph keeps as candidates
LISTS_PROBED = 64
TRAINING_ROWS_PER_LIST = 64
SEED = 0


@dataclass(frozen=True)
class Stamp:
    """What the database records about the file of a structure; another file is ignored.

    Attributes:
        kind: "hnsw" or "ivfpq".
        generation: of the rows that the structure covers.
        rows: the number of these rows.
        sha256: of the file.
    """

    kind: str
    generation: int
    rows: int
    sha256: str

    @property
    def name(self) -> str:
        """The name of the file."""
        return _name(self.generation)

    def text(self) -> str:
        """The stamp as JSON."""
        return json.dumps(asdict(self))


def _name(generation: int) -> str:
    return f"structure-{generation}.faiss"


class Structure:
    """An approximate search structure over the rows of one generation."""

    def __init__(self, index: Any, stamp: Stamp) -> None:
        faiss = _faiss()
        self._index, self.stamp = index, stamp
        self.ids: Int[np.ndarray, " n"] = np.sort(faiss.vector_to_array(index.id_map))

    def candidates(
        self,
        queries: Float[np.ndarray, "q d"],
        k: int,
        *,
        among: Int[np.ndarray, " a"] | None,
        without: Int[np.ndarray, " w"],
    ) -> list[Int[np.ndarray, " found"]]:
        """Finds ids that may be among the k most similar rows of each query; compute their similarities from the rows.

        Args:
            queries: (q, d), unit vectors.
            k: the number of neighbours that are needed in the end.
            among: if not None, only these ids are found.
            without: ids that are never found; ignored if `among` is given.
        """
        faiss = _faiss()
        codes = self.stamp.kind == "ivfpq"  # codes separate near rows badly, so more candidates are compared
        wanted = min(max(10 * k, 100) if codes else k, len(self.ids))
        # The objects of faiss do not keep what they point to alive, so both names must last until the search ends.
        batch = faiss.IDSelectorBatch(without if among is None else among)
        selector = batch if among is not None else faiss.IDSelectorNot(batch) if len(without) else None
        if codes:
            options = faiss.SearchParametersIVF(nprobe=LISTS_PROBED, sel=selector)
        else:
            options = faiss.SearchParametersHNSW(efSearch=max(BREADTH, 2 * wanted), sel=selector)
        # faiss.contrib.torch_utils, which other libraries import, replaces `search` by a function without params.
        search = getattr(self._index, "search_numpy", self._index.search)
        _, found = search(queries, wanted, params=options)
        return [row[row >= 0] for row in found]


def _faiss() -> Any:
    # Imported by name, because the generated type hints of faiss lack many of its functions.
    return importlib.import_module("faiss")


def available() -> bool:
    """Whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def build(
    kind: str,
    n: int,
    training: Float[np.ndarray, "t d"],
    batches: Iterable[tuple[Int[np.ndarray, " b"], Float[np.ndarray, "b d"]]],
) -> Any:
    """Builds a structure.

    Args:
        kind: "hnsw" or "ivfpq".
        n: the number of rows in all batches.
        training: a sample of the rows, from which "ivfpq" learns its codes.
        batches: ids and rows.
    """
    faiss = _faiss()
    d = training.shape[1]
    if kind == "hnsw":
        inner = faiss.IndexHNSWFlat(d, LINKS, faiss.METRIC_INNER_PRODUCT)
        inner.hnsw.efConstruction = BREADTH_OF_BUILDING
    else:
        coarse = faiss.IndexFlatIP(d)
        parts = max(m for m in range(1, d // 4 + 2) if d % m == 0)
        inner = faiss.IndexIVFPQ(coarse, d, lists(n), parts, 8, faiss.METRIC_INNER_PRODUCT)
        inner.train(training)
    index = faiss.IndexIDMap(inner)
    for ids, rows in batches:
        index.add_with_ids(rows, ids)
    return index


def lists(n: int) -> int:
    """The number of lists into which "ivfpq" divides n rows."""
    return max(1, min(round(4 * math.sqrt(n)), n // 39))


def save(folder: Path, index: Any, kind: str, generation: int, rows: int) -> Stamp:
    """Writes the structure to a file, atomically.

    Raises:
        OSError, RuntimeError: the file cannot be written; faiss raises the latter if the disk is full.
    """
    with replacing(folder / _name(generation)) as partial:
        _faiss().write_index(index, str(partial))
        return Stamp(kind, generation, rows, _digest(partial))


def load(folder: Path, stamp: Stamp) -> Structure | None:
    """Reads the file of a structure; None if it is missing, does not match the stamp, or faiss is not installed."""
    if not available():
        return None
    faiss = _faiss()
    try:
        if _digest(folder / stamp.name) != stamp.sha256:
            return None
        return Structure(faiss.read_index(str(folder / stamp.name)), stamp)
    except (OSError, RuntimeError):
        return None


def clear(folder: Path, keep: Stamp | None) -> None:
    """Removes the files of other generations, and incomplete files of killed processes."""
    for file in folder.glob("structure*"):
        if keep is None or file.name != keep.name:
            with contextlib.suppress(OSError):
                file.unlink()


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
