"""The model of an index: stores its files in the index, and identifies it by a digest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from embedding_expansion.errors import RunError, StoreError
from embedding_expansion.inference.embedder import Embedder, source_of
from embedding_expansion.inference.manifest import CARD, FILES, MANIFEST, TEXT, Manifest, read_manifest
from embedding_expansion.inference.thresholds import THRESHOLDS
from embedding_expansion.retrieval.index import Index

#: The note of an index that names the model of its vectors. It is written after all files of the model.
NOTE = "model"


@dataclass(frozen=True)
class IndexModel:
    """The model of the vectors of an index.

    Attributes:
        digest: the digest of the model, see `digest_of`.
        flip: whether the embeddings of each image and its mirror image were averaged. Queries must do the same.
    """

    digest: str
    flip: bool = False

    def __str__(self) -> str:
        return f"{self.digest[:12]}{' with flip' if self.flip else ''}"


@contextmanager
def exported(model: str | os.PathLike[str] | Embedder) -> Iterator[Path]:
    """The folder of an export: the given one, or a temporary `safetensors` export of a run folder or a backbone.

    Raises:
        RunError: `model` is neither a run nor an export, or one of its files is missing or broken.
        InvalidInput: the run embeds vectors, or the embedder is one of a module.
    """
    source = source_of(model)
    if isinstance(source, Path) and not source.is_dir():
        raise RunError(f"the folder {source} does not exist; pass a run folder or an export folder")
    if isinstance(source, Path) and (source / MANIFEST).exists():
        yield source
        return
    from embedding_expansion.inference.export import export  # torch

    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        export(model, "safetensors", Path(folder) / "model")
        yield Path(folder) / "model"


def digest_of(folder: Path) -> str:
    """The digest of a model: SHA-256 of its weights and its preprocessing.

    Two exports of one run in the same format have the same digest, even with a different model card, metrics or
    thresholds.

    Args:
        folder: the folder of an export.

    Raises:
        RunError: a file is missing or broken.
    """
    manifest = read_manifest(folder)
    about = manifest.content.get("model")
    network = {name: about.get(name) for name in ("backbone", "pooling")} if isinstance(about, dict) else {}
    found = hashlib.sha256(json.dumps([manifest.format, asdict(manifest.preprocessing), network]).encode())
    path = folder / FILES[manifest.format]
    try:
        with path.open("rb") as file:
            if manifest.format == "safetensors":
                found.update(_header_of_tensors(file.read(int.from_bytes(file.read(8), "little"))))
            while piece := file.read(2**24):
                found.update(piece)
    except (OSError, ValueError, AttributeError, TypeError, MemoryError, OverflowError, RecursionError) as error:
        raise RunError(f"{path} cannot be read ({error}); export the run again") from error
    return found.hexdigest()


def _header_of_tensors(header: bytes) -> bytes:
    """Names, types and offsets of the tensors, without the metadata."""
    content = json.loads(header)
    content.pop("__metadata__", None)
    return json.dumps(content, sort_keys=True).encode()


def install(index: Index, folder: Path, model: IndexModel) -> None:
    """Stores a model in an index, or checks that the index already contains this model.

    The note that names the model is written last, so that an interrupted call can be repeated. New thresholds are
    always copied.

    Args:
        index: the index, locked for writing.
        folder: the folder of an export.
        model: the model of the export.

    Raises:
        StoreError: the index holds vectors of another model.
    """
    check_model(index, model)
    if (folder / THRESHOLDS).exists():
        index.files.put(folder / THRESHOLDS)
    if model_note(index) is not None:
        return
    manifest = read_manifest(folder)
    for name in (*_weights(manifest), MANIFEST, CARD):
        if (folder / name).exists():
            index.files.put(folder / name)
    index.set_note(NOTE, asdict(model))


def _weights(manifest: Manifest) -> tuple[str, ...]:
    return (FILES[manifest.format], *(["config.yaml", TEXT] if manifest.format == "safetensors" else []))


def model_note(index: Index) -> IndexModel | None:
    """Reads which model an index contains; None if it names no model.

    Raises:
        StoreError: the note cannot be read.
    """
    note = index.notes.get(NOTE)
    if note is None:
        return None
    digest, flip = (note.get("digest"), note.get("flip")) if isinstance(note, dict) else (None, None)
    if not isinstance(digest, str) or not isinstance(flip, bool):
        raise StoreError(f"{index.location} has an unreadable note {NOTE!r}; build the index again")
    return IndexModel(digest, flip)


def check_model(index: Index, model: IndexModel) -> None:
    """Checks that the vectors of an index come from this model.

    Raises:
        StoreError: they come from another model, were made with the other `flip`, or their model is unknown.
    """
    note = model_note(index)
    if note is None and index.count() > 0:
        raise StoreError(f"{index.location} holds {index.count():,} items of an unknown model; pass another place")
    if note is not None and note != model:
        hint = " (they differ in --flip)" if note.digest == model.digest else ""
        raise StoreError(
            f"{index.location} holds vectors of the model {note}, not of {model}{hint}; pass another place, or use "
            "embex add, which embeds with the model of the index"
        )
