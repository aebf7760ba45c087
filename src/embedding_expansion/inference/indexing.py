"""Images into an index: embedded as they stream by, on disk batch by batch, visible all at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from embedding_expansion.data.finding import find_images
from embedding_expansion.errors import DataError, StoreError
from embedding_expansion.inference.collection import model_of
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.index_model import IndexModel, digest_of, exported, install, model_note
from embedding_expansion.inference.inventory import CHUNK, Entry, Plan, compare
from embedding_expansion.inference.labels import OWN, Labels, read_labels
from embedding_expansion.inference.streaming import Progress, embed_into, silent
from embedding_expansion.retrieval.index import Changes, Index, Item, Loading, create_index, is_index, open_index

#: The note that says where labels came from when the index was made.
LABELS_NOTE = "labels"


@dataclass
class Report:
    """What a load has done.

    Attributes:
        new: images that were not in the index.
        changed: images that were, and whose file, label or metadata differed.
        unchanged: images that are there as they were, and were not embedded again.
        resumed: images that an earlier try, which was broken off, had embedded already.
        broken: path -> reason, for images that could not be read and were left out.
        unlabelled: images that a table of labels has no row for.
        foreign: paths in a table of labels that are no image of this load.
        left_out: which files and folders in the folders were passed over, in a line; empty if none were.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    resumed: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    unlabelled: int = 0
    foreign: list[str] = field(default_factory=list)
    left_out: str = ""

    def count(self, load: Loading, plan: Plan, taken_over: Container[str]) -> None:
        """Enters a load that has come to its end."""
        changes = load.changes or Changes(0, 0)
        self.new, self.changed = self.new + changes.new, self.changed + changes.changed
        self.resumed += sum(entry.path in taken_over for entry in plan.embed)


def index_images(
    model: str | os.PathLike[str],
    images: Iterable[str | os.PathLike[str]],
    location: str | os.PathLike[str],
    *,
    kind: str | None = None,
    precision: str | None = None,
    labels: str = "folder",
    flip: bool = False,
    device: str = "auto",
    batch_size: int = 64,
    progress: Progress = silent,
) -> Report:
    """Makes an index of images, or brings images into one that was made with the same model.

    Memory holds a few batches of images, whatever their number, and the list of their paths. Each batch is on disk when
    it is embedded, where no search sees it, and all become visible in one step. Whoever is killed leaves the old index,
    or one that is still empty; the same call goes on where the last one stopped. An image whose path, size and time
    are those in the index is not embedded again.

    Args:
        model: a run folder, which is exported for the purpose, or an export (`onnx` or `safetensors`).
        images: files, and folders to look through, as `finding.find_images` does.
        location: a folder, or a URL of PostgreSQL; made if it is not there.
        kind: as in `create_index`, "auto" by default; must be that of the index if there is one.
        precision: as in `create_index`, "float32" by default; must be that of the index if there is one.
        labels: "folder", the name of the folder that an image lies in, if that is a subfolder of a named one; "none";
            or a CSV or TSV file (see `read_labels`). Images that are there get the new labels.
        flip: average in the embedding of each image's mirror image.
        device: for the model.
        batch_size: images that go through the model at once.
        progress: is told of each batch.

    Raises:
        DataError: there is no image, or not one that can be read, a folder cannot be read, or the table of labels is
            wrong.
        RunError, InvalidInput: the model cannot be used.
        StoreError: the place is taken by something else or by another model, or another process is writing.
    """
    load = _Load(images, read_labels(labels), keep=False, progress=progress)
    with exported(model) as folder:
        embedder = Embedder.load(folder, device=device, batch_size=batch_size)
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
) -> Report:
    """Brings images into an index, with the model that is in it; as `index_images` in all else.

    Args:
        location: of the index.
        images: files, and folders to look through.
        labels: as in `index_images`. By default images that are there keep label and metadata, and new ones get the
            name of their folder, unless the index was made without labels or with a table.
        device: for the model.
        batch_size: images that go through the model at once.
        progress: is told of each batch.

    Raises:
        DataError: there is no image, or not one that can be read, a folder cannot be read, or the table of labels is
            wrong.
        StoreError: there is no such index, it holds no model, or another process is writing.
        RunError, InvalidInput: its model cannot be used.
    """
    with open_index(location) as index:
        default = "folder" if index.notes.get(LABELS_NOTE, "folder") == "folder" else "none"
        wanted = read_labels(default if labels is None else labels)
        load = _Load(images, wanted, keep=labels is None, progress=progress)
        embedder = model_of(index, device=device, batch_size=batch_size)
        used = model_note(index) or IndexModel("not known")
        return load.run(index, embedder, used, lambda: None)


class _Load:
    """Images that are to be brought into an index, whatever the model."""

    def __init__(
        self, images: Iterable[str | os.PathLike[str]], labels: Labels, *, keep: bool, progress: Progress
    ) -> None:
        names = [os.path.abspath(name) for name in images]
        found = find_images(names)
        self.files, self._left_out = found.files, str(found.left_out)
        self.labels, self._keep, self._progress = labels, keep, progress
        self._rows = labels.check(self.files)
        self._said = [names, labels.name, labels.digest, keep]
        shown = os.path.basename(names[0])[:40]
        self._title = f"{shown} and {len(names) - 1} more" if len(names) > 1 else shown

    def key(self, model: IndexModel) -> str:
        """Names this load among others: short, since each staged row holds it."""
        said = json.dumps([self._said, model.digest, model.flip])
        return f"{self._title}, {hashlib.sha256(said.encode()).hexdigest()[:12]}"

    def run(self, index: Index, embedder: Embedder, model: IndexModel, prepare: Callable[[], None]) -> Report:
        """Does it; `prepare` is called before anything else once this process holds the right to write."""
        unlabelled, foreign = self._rows
        report, files = Report(unlabelled=unlabelled, foreign=foreign, left_out=self._left_out), self.files
        while files:
            with index.loading(self.key(model)) as load:
                prepare()
                taken_over = set(load.staged)
                plan = compare(index, files, self.labels, keep=self._keep)
                report.broken |= plan.broken
                report.broken |= embed_into(load, embedder, plan.embed, flip=model.flip, progress=self._progress)
                if len(report.broken) == len({os.path.abspath(file.path) for file in self.files}):
                    raise DataError(_nothing(report.broken, index))
                _relabel(index, load, plan.relabel)
            report.count(load, plan, taken_over)
            report.unchanged += plan.unchanged if files is self.files else 0
            # A file may have changed since the try that embedded it was broken off: look at those once more.
            files = [file for file in files if os.path.abspath(file.path) in taken_over]
        return report


def _nothing(broken: Mapping[str, str], index: Index) -> str:
    held = index.count()
    state = f"still holds its {held:,} items" if held else "is empty"
    first = next(iter(broken.values()))
    return f"not one of {len(broken)} images can be read, the first: {first}; {index.location} {state}"


def _relabel(index: Index, load: Loading, entries: Sequence[Entry]) -> None:
    """Gives items other labels and metadata; their vectors and pictures stay."""
    for start in range(0, len(entries), CHUNK):
        said = {entry.path: entry for entry in entries[start : start + CHUNK]}
        for items, vectors in index.batches({"path": list(said)}, thumbnails=True):
            load.add([_relabelled(item, said[item.path]) for item in items], vectors)


def _relabelled(item: Item, entry: Entry) -> Item:
    facts = {name: value for name, value in item.metadata.items() if name in OWN}
    return replace(item, label=entry.label, metadata={**entry.metadata, **facts})


@contextmanager
def opened(
    location: str | os.PathLike[str], dimensions: int, kind: str | None, precision: str | None
) -> Iterator[Index]:
    """The index at a place, made if there is none.

    Raises:
        StoreError: one that is there was made otherwise.
    """
    if not is_index(location):
        with create_index(location, dimensions, kind=kind or "auto", precision=precision or "float32") as index:
            yield index
        return
    with open_index(location) as index:
        for name, given, there in (("kind", kind, index.asked), ("precision", precision, index.precision)):
            if given not in (None, there):
                raise StoreError(
                    f"{index.location} was made with {name} {there}, not {given}; leave it out, or name another place"
                )
        if index.dimensions != dimensions:
            raise StoreError(
                f"{index.location} holds vectors of {index.dimensions} dimensions, but the model gives {dimensions}; "
                "name another place"
            )
        yield index
