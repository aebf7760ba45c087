"""Indexes images: embeds them in batches, saves each batch, and makes all of them visible at once."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from embedding_expansion.checks import validates
from embedding_expansion.data.finding import find_images
from embedding_expansion.errors import DataError, StoreError
from embedding_expansion.inference.collection import model_of
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.gallery import calibrate_if_changed
from embedding_expansion.inference.index_model import IndexModel, digest_of, exported, install, model_note
from embedding_expansion.inference.inventory import CHUNK, Entry, IndexingPlan, compare
from embedding_expansion.inference.labels import OWN, Labels, read_labels
from embedding_expansion.inference.streaming import Progress, embed_into, silent
from embedding_expansion.retrieval.index import Changes, Index, Item, Loading, create_index, is_index, open_index
from embedding_expansion.retrieval.index.kinds import AskedKind
from embedding_expansion.retrieval.index.notes import Precision

#: The note that records where the labels of the index come from.
LABELS_NOTE = "labels"


@dataclass
class IndexingReport:
    """The result of a load.

    Attributes:
        new: the number of images that were not in the index.
        changed: the number of indexed images whose file, label or metadata differed.
        unchanged: the number of indexed images that are up to date and were not embedded again.
        resumed: the number of images that an interrupted earlier load had already embedded.
        broken: path -> reason, for unreadable images, which were skipped.
        unlabelled: the number of images that the table of labels does not list.
        foreign: paths in the table of labels that match none of the images.
        left_out: a line on files and folders that were ignored; empty if there are none.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    resumed: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    unlabelled: int = 0
    foreign: list[str] = field(default_factory=list)
    left_out: str = ""

    def count(self, load: Loading, plan: IndexingPlan, taken_over: Container[str]) -> None:
        """Adds the changes of a finished load."""
        changes = load.changes or Changes(0, 0)
        self.new, self.changed = self.new + changes.new, self.changed + changes.changed
        self.resumed += sum(entry.path in taken_over for entry in plan.embed)


@validates
def index_images(
    model: str | os.PathLike[str] | Embedder,
    images: Iterable[str | os.PathLike[str]],
    location: str | os.PathLike[str],
    *,
    kind: AskedKind | None = None,
    precision: Precision | None = None,
    labels: str = "folder",
    flip: bool = False,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress = silent,
) -> IndexingReport:
    """Builds an index of images, or adds images to an index built with the same model.

    Memory use does not depend on the number of images, except for the list of their paths. Each embedded batch is
    saved to disk but stays invisible to searches until the end, when all images become visible in one step. An
    interrupted call leaves the index unchanged (or empty); the same call then continues where it stopped. Images with
    the same path, size and modification time as in the index are not embedded again.

    Args:
        model: a run folder, an export (`onnx` or `safetensors`), or an `Embedder` of one or of a backbone as it comes.
        images: image files, and folders to search for images; see `finding.find_images`.
        location: the index: a folder or a postgresql:// URL; created if it does not exist.
        kind: the structure of the index, see `create_index`; None means "auto", or that of an existing index.
        precision: the precision of the vectors, see `create_index`; None means "float32", or that of an existing index.
        labels: "folder" for the name of the image's folder, if it is a subfolder of a named folder; "none"; or a CSV or
            TSV file, see `read_labels`. Images in the index get the new labels.
        flip: whether to average the embeddings of each image and its mirror image.
        device: the device of the model; an `Embedder` has its own.
        batch_size: the number of images per batch; an `Embedder` has its own.
        progress: called after each batch.

    Raises:
        DataError: there are no readable images, a folder cannot be read, or the table of labels is invalid.
        RunError, InvalidInput: the model cannot be used, or cannot be stored because it is a module of yours.
        StoreError: `location` contains something else or vectors of another model, or another process is writing.
    """
    load = _Load(images, read_labels(labels), keep=False, progress=progress)
    with exported(model) as folder:
        own = model if isinstance(model, Embedder) else None
        embedder = own or Embedder.load(folder, device=device, batch_size=batch_size)
        used = IndexModel(digest_of(folder), flip)
        with opened(location, embedder.dimensions, kind, precision) as index:

            def prepare() -> None:
                install(index, folder, used)
                if LABELS_NOTE not in index.notes:
                    index.set_note(LABELS_NOTE, load.labels.name)

            return load.run(index, embedder, used, prepare)


def add_images(
    location: str | os.PathLike[str],
    images: Iterable[str | os.PathLike[str]],
    *,
    labels: str | None = None,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress = silent,
) -> IndexingReport:
    """Adds images to an index with the model of the index. See `index_images` for everything else.

    Args:
        location: the index: a folder or a postgresql:// URL.
        images: image files, and folders to search for images.
        labels: as in `index_images`. With None, indexed images keep their label and metadata, and new images get the
            name of their folder, unless the index was built without labels or with a table.
        device: the device of the model.
        batch_size: the number of images per batch.
        progress: called after each batch.

    Raises:
        DataError: there are no readable images, a folder cannot be read, or the table of labels is invalid.
        StoreError: there is no such index, it contains no model, or another process is writing.
        RunError, InvalidInput: the model cannot be used.
    """
    with open_index(location) as index:
        default = "folder" if index.notes.get(LABELS_NOTE, "folder") == "folder" else "none"
        wanted = read_labels(default if labels is None else labels)
        load = _Load(images, wanted, keep=labels is None, progress=progress)
        embedder = model_of(index, device=device, batch_size=batch_size)
        used = model_note(index) or IndexModel("unknown")
        return load.run(index, embedder, used, lambda: None)


class _Load:
    """The images and labels of one load, independent of the model."""

    def __init__(
        self, images: Iterable[str | os.PathLike[str]], labels: Labels, *, keep: bool, progress: Progress
    ) -> None:
        names = [os.path.abspath(name) for name in images]
        found = find_images(names)
        self.files, self._left_out = found.files, str(found.left_out)
        self.labels, self._keep, self._progress = labels, keep, progress
        self._rows = labels.check(self.files)
        self._request = [names, labels.name, labels.digest, keep]
        shown = os.path.basename(names[0])[:40]
        self._title = f"{shown} and {len(names) - 1} more" if len(names) > 1 else shown

    def key(self, model: IndexModel) -> str:
        """Identifies the load. The key is short, because every staged row contains it."""
        request = json.dumps([self._request, model.digest, model.flip])
        return f"{self._title}, {hashlib.sha256(request.encode()).hexdigest()[:12]}"

    def run(self, index: Index, embedder: Embedder, model: IndexModel, prepare: Callable[[], None]) -> IndexingReport:
        """Runs the load. `prepare` is called first, once the index is locked for writing."""
        unlabelled, foreign = self._rows
        report, files = IndexingReport(unlabelled=unlabelled, foreign=foreign, left_out=self._left_out), self.files
        while files:
            with index.loading(self.key(model)) as load:
                prepare()
                taken_over = set(load.staged)
                plan = compare(index, files, self.labels, keep=self._keep)
                report.broken |= plan.broken
                report.broken |= embed_into(load, embedder, plan.embed, flip=model.flip, progress=self._progress)
                if len(report.broken) == len({os.path.abspath(file.path) for file in self.files}):
                    raise DataError(_all_broken(report.broken, index))
                _relabel(index, load, plan.relabel)
            report.count(load, plan, taken_over)
            report.unchanged += plan.unchanged if files is self.files else 0
            # A file may have changed since an interrupted load embedded it, so check these files again.
            files = [file for file in files if os.path.abspath(file.path) in taken_over]
        calibrate_if_changed(index, report.changed)
        return report


def _all_broken(broken: Mapping[str, str], index: Index) -> str:
    held = index.count()
    state = f"still holds its {held:,} items" if held else "is empty"
    first = next(iter(broken.values()))
    return f"none of {len(broken)} images can be read; the first error: {first}; {index.location} {state}"


def _relabel(index: Index, load: Loading, entries: Sequence[Entry]) -> None:
    """Updates labels and metadata of items. Their vectors and thumbnails stay the same."""
    for start in range(0, len(entries), CHUNK):
        chunk = {entry.path: entry for entry in entries[start : start + CHUNK]}
        for items, vectors in index.batches({"path": list(chunk)}, thumbnails=True):
            load.add([_relabelled(item, chunk[item.path]) for item in items], vectors)


def _relabelled(item: Item, entry: Entry) -> Item:
    facts = {name: value for name, value in item.metadata.items() if name in OWN}
    return replace(item, label=entry.label, metadata={**entry.metadata, **facts})


@contextmanager
@validates
def opened(
    location: str | os.PathLike[str], dimensions: int, kind: AskedKind | None, precision: Precision | None
) -> Iterator[Index]:
    """Opens the index at a location, or creates it.

    Raises:
        StoreError: an existing index has another kind, precision or dimensionality.
    """
    if not is_index(location):
        with create_index(location, dimensions, kind=kind or "auto", precision=precision or "float32") as index:
            yield index
        return
    with open_index(location) as index:
        for name, given, there in (("kind", kind, index.asked), ("precision", precision, index.precision)):
            if given not in (None, there):
                raise StoreError(
                    f"{index.location} has {name} {there}, not {given}; omit --{name}, or pass another place"
                )
        if index.dimensions != dimensions:
            raise StoreError(
                f"{index.location} holds vectors of {index.dimensions} dimensions, but the model produces "
                f"{dimensions}; pass another place"
            )
        yield index


def __getattr__(name: str) -> Any:
    if name == "Report":
        warnings.warn(
            "Report is now called IndexingReport; the old name goes with the next release", DeprecationWarning, 2
        )
        return IndexingReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
