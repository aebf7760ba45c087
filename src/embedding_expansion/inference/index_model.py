"""The model of an index: told from others by its digest, put into the index with its files, and taken out again."""

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
from embedding_expansion.inference.manifest import CARD, FILES, MANIFEST, Manifest, read_manifest
from embedding_expansion.inference.thresholds import THRESHOLDS
from embedding_expansion.retrieval.index import Index

#: The note of an index that says which model its vectors come from; written when all files of the model are there.
NOTE = "model"


@dataclass(frozen=True)
class IndexModel:
    """How the vectors of an index were made.

    Attributes:
        digest: of the model, see `digest_of`.
        flip: whether the embedding of each image's mirror image was averaged in. Make queries in the same way.
    """

    digest: str
    flip: bool = False

    def __str__(self) -> str:
        return f"{self.digest[:12]}{' with flip' if self.flip else ''}"


@contextmanager
def exported(model: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder of an export: the one that is given, or for a run folder a temporary one in the form `safetensors`.

    Raises:
        RunError: it is neither a run nor an export, or a file of it is missing or broken.
        InvalidInput: the run embeds vectors.
    """
    path = Path(model)
    if not path.is_dir():
        raise RunError(f"there is no folder {path}; pass a run, or what embex export made of one")
    if (path / MANIFEST).exists():
        yield path
        return
    from embedding_expansion.inference.export import export  # torch

    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        export(path, "safetensors", Path(folder) / "model")
        yield Path(folder) / "model"


def digest_of(folder: Path) -> str:
    """Tells models apart: SHA-256 of the weights and of what happens to an image before them.

    Two exports of one run in the same form have the same digest, whatever model card, measures or thresholds lie beside
    them.

    Args:
        folder: of an export.

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
    """Names, types and places of the tensors; what else was noted of them does not count."""
    content = json.loads(header)
    content.pop("__metadata__", None)
    return json.dumps(content, sort_keys=True).encode()


def install(index: Index, folder: Path, model: IndexModel) -> None:
    """Puts a model into an index that has none, or makes sure that it is the one that is there.

    The note that names it comes last, so that whoever is killed on the way does it again. Thresholds that were
    calibrated since are brought along.

    Args:
        index: to be written, in a block that holds the right to do so.
        folder: of an export.
        model: its digest, and how vectors are made with it.

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
    return (FILES[manifest.format], *(["config.yaml"] if manifest.format == "safetensors" else []))


def model_note(index: Index) -> IndexModel | None:
    """What the index says of its model; None where it says nothing.

    Raises:
        StoreError: what it says cannot be read.
    """
    note = index.notes.get(NOTE)
    if note is None:
        return None
    digest, flip = (note.get("digest"), note.get("flip")) if isinstance(note, dict) else (None, None)
    if not isinstance(digest, str) or not isinstance(flip, bool):
        raise StoreError(f"{index.location} holds the note {NOTE!r} in a form that is not known; make it again")
    return IndexModel(digest, flip)


def check_model(index: Index, model: IndexModel) -> None:
    """Refuses a model that is not the one that the vectors of an index come from.

    Raises:
        StoreError: it is another one, or is used in another way, or nobody knows.
    """
    note = model_note(index)
    if note is None and index.count() > 0:
        raise StoreError(
            f"{index.location} holds {index.count():,} items and does not say which model they come from; name another "
            "place"
        )
    if note is not None and note != model:
        hint = " (it was made with the other --flip)" if note.digest == model.digest else ""
        raise StoreError(
            f"{index.location} holds vectors of another model, {note}, not {model}{hint}; name another place, or embex "
            "add with the model that is there"
        )
