"""Indexes vectors of any modality, together with the run that embeds them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt

from embedding_expansion.checks import validates
from embedding_expansion.data.vectors import check_labels, check_names, read_rows
from embedding_expansion.inference.describe import public
from embedding_expansion.inference.gallery import calibrate_if_changed
from embedding_expansion.inference.index_model import NOTE, IndexModel, check_model, model_note
from embedding_expansion.inference.indexing import opened
from embedding_expansion.inference.thresholds import THRESHOLDS
from embedding_expansion.inference.vector_embedder import VectorEmbedder
from embedding_expansion.retrieval.index import Changes, Index, Item
from embedding_expansion.retrieval.index.kinds import AskedKind
from embedding_expansion.retrieval.index.notes import Precision
from embedding_expansion.runs import config as configuration
from embedding_expansion.runs.run_folder import RunFolder


@validates
def index_vectors(
    run: str | os.PathLike[str],
    file: Path,
    location: str | os.PathLike[str],
    *,
    kind: AskedKind | None = None,
    precision: Precision | None = None,
    device: str = "auto",
) -> Changes:
    """Embeds the vectors of a file and adds them to an index, all at once. The index is created if necessary.

    The path of an item is its entry in the `names` of the file, or `FILE#ROW`. An item with the same path is replaced.
    The label of an item is its entry in the `labels` of the file, if any.

    Args:
        run: the folder of a run that was trained on vectors.
        file: an .npz or .parquet file, see `data.vectors`; labels are optional.
        location: the index: a folder or a postgresql:// URL.
        kind: as in `index_images`.
        precision: as in `index_images`.
        device: the device of the model.

    Raises:
        RunError, InvalidInput, DataError: the run or the file cannot be used.
        StoreError: `location` contains something else or vectors of another model, or another process is writing.
    """
    embedder = VectorEmbedder.load(run, device=device)
    rows, others = read_rows(file)
    vectors = embedder.embed(rows)
    named = zip(names_of(file, len(rows), others), _labels(file, len(rows), others), strict=True)
    items = [Item(name, label) for name, label in named]
    folder = RunFolder(Path(run))
    used = IndexModel(hashlib.sha256(folder.model.read_bytes()).hexdigest())
    with opened(location, embedder.dimensions, kind, precision) as index:
        check_model(index, used)
        _install(index, folder, used)
        changes = index.add(items, vectors)
        calibrate_if_changed(index, changes.changed)
        return changes


def names_of(file: Path, count: int, others: dict[str, npt.NDArray[Any]]) -> list[str]:
    """Unique names for the rows of a file: from its `names`, or from the file name and the row number."""
    given = others.get("names")
    if given is None:
        return [f"{file.name}#{row}" for row in range(count)]
    texts = check_names(file, given, count).tolist()
    often = Counter(texts)
    return [text if often[text] == 1 else f"{text} #{row}" for row, text in enumerate(texts)]


def _labels(file: Path, count: int, others: dict[str, npt.NDArray[Any]]) -> list[str | None]:
    labels = others.get("labels")
    if labels is None:
        return [None] * count
    check_labels(file, labels, count)
    return [str(label) for label in labels.tolist()]


def _install(index: Index, run: RunFolder, model: IndexModel) -> None:
    """Stores the files that `VectorEmbedder` needs in the index. The note that names the model is written last."""
    if (run.path / THRESHOLDS).exists():
        index.files.put(run.path / THRESHOLDS)
    if model_note(index) is not None:
        return
    index.files.put(run.model)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(configuration.dump(public(run.read_config())), encoding="utf-8")
        index.files.put(config)
    index.set_note(NOTE, asdict(model))
