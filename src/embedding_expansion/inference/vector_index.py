"""Vectors of any modality in an index, with the run that embeds them: the index of `indexing.py` without images."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt

from embedding_expansion.data.vectors import read_rows
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.describe import public
from embedding_expansion.inference.index_model import NOTE, IndexModel, check_model, model_note
from embedding_expansion.inference.of_vectors import VectorEmbedder
from embedding_expansion.inference.thresholds import THRESHOLDS
from embedding_expansion.retrieval.index import Changes, Index, Item, create_index, is_index, open_index
from embedding_expansion.training import config as configuration
from embedding_expansion.training.run_folder import RunFolder


def index_vectors(
    run: str | os.PathLike[str],
    file: Path,
    location: str | os.PathLike[str],
    *,
    kind: str = "auto",
    precision: str = "float32",
    device: str = "auto",
) -> Changes:
    """Embeds the vectors of a file into an index, which is made if it is not there; all become visible at once.

    An item is named by the `names` of the file, or `FILE#ROW`; the same name again replaces it. Its label is that of
    the file, if there is one.

    Args:
        run: folder of a run that was trained on vectors.
        file: .npz or .parquet, as in `data.vectors`; labels may be missing.
        location: a folder, or a URL of PostgreSQL.
        kind: of a new index, as in `create_index`.
        precision: of a new index, as in `create_index`.
        device: for the model.

    Raises:
        RunError, InvalidInput, DataError: the run or the file cannot be used.
        StoreError: the place is taken by something else or by another model, or another process is writing.
    """
    embedder = VectorEmbedder.load(run, device=device)
    rows, others = read_rows(file)
    vectors = embedder.embed(rows)
    named = zip(names_of(file, len(rows), others), _labels(len(rows), others), strict=True)
    items = [Item(name, label) for name, label in named]
    folder = RunFolder(Path(run))
    used = IndexModel(hashlib.sha256(folder.model.read_bytes()).hexdigest())
    if not is_index(location):
        create_index(location, embedder.dimensions, kind=kind, precision=precision).close()
    with open_index(location) as index:
        check_model(index, used)
        if index.dimensions != embedder.dimensions:
            raise InvalidInput(
                f"{index.location} holds vectors of {index.dimensions} dimensions, but the run gives "
                f"{embedder.dimensions}; name another place"
            )
        _install(index, folder, used)
        return index.add(items, vectors)


def names_of(file: Path, count: int, others: dict[str, npt.NDArray[Any]]) -> list[str]:
    """What the rows of a file are called, each once: by its names, or by its own name and the row."""
    given = others.get("names")
    if given is None:
        return [f"{file.name}#{row}" for row in range(count)]
    if given.dtype.kind != "U" or given.shape != (count,):
        raise InvalidInput(f"names in {file} is {given.dtype} of shape {given.shape}; it must be {count} texts")
    texts = given.tolist()
    often = Counter(texts)
    return [text if often[text] == 1 else f"{text} #{row}" for row, text in enumerate(texts)]


def _labels(count: int, others: dict[str, npt.NDArray[Any]]) -> list[str | None]:
    labels = others.get("labels")
    return [None] * count if labels is None else [str(label) for label in labels.tolist()]


def _install(index: Index, run: RunFolder, model: IndexModel) -> None:
    """Puts what `VectorEmbedder` needs into the index; the note that names it comes last."""
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
