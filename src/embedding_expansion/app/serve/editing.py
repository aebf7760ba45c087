"""Changes of the collection by clients, and undoing them: add, relabel, remove.

Every change is one atomic write of the index, under its lock for writers. What a change replaced is kept in memory, so
that it can be undone until the server ends or too much has been changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedding_expansion.app.serve.batching import Row
from embedding_expansion.app.serve.lookup import items_of
from embedding_expansion.app.serve.originals import image_type
from embedding_expansion.errors import EmbeddingExpansionError, StoreError
from embedding_expansion.files import replacing
from embedding_expansion.inference.decoder import Decoded
from embedding_expansion.retrieval.index import Index, Item

#: How many changes, and how many bytes of what they replaced, are kept.
MOST_CHANGES, MOST_BYTES = 100, 256 << 20

_ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/gif": "gif", "image/webp": "webp", "image/avif": "avif"}


class Conflict(EmbeddingExpansionError):
    """A change that contradicts what the collection holds now."""


class Unwritable(EmbeddingExpansionError):
    """The collection cannot be changed at the moment; nothing in it has changed."""


@dataclass(frozen=True)
class Stored:
    """Items with everything that the index stores of them."""

    items: list[Item]
    vectors: npt.NDArray[np.float32]

    @property
    def size(self) -> int:
        """About how many bytes they take in memory."""
        return self.vectors.nbytes + sum(len(item.thumbnail or b"") + 1000 for item in self.items)


@dataclass(frozen=True)
class Done:
    """A change that can be undone.

    Attributes:
        what: the change in a few words, such as "removed 3 images".
        before: the items as they were; none for an addition.
        after: the items as the change left them; none for a removal.
        file: the file that the change has written, or None.
    """

    what: str
    before: Stored | None
    after: list[Item]
    file: Path | None = None


class Editor:
    """Changes an index and remembers how to undo it.

    Args:
        index: the index.
        is_free: the lock that serialises access to it.
        uploads: the folder for the files of added images.
    """

    def __init__(self, index: Index, is_free: threading.Lock, uploads: Path) -> None:
        self._index, self._is_free, self._uploads = index, is_free, uploads
        self._done: deque[Done] = deque()
        self._has_forgotten = False

    def changes(self) -> list[str]:
        """What can be undone, the latest change first."""
        return [done.what for done in reversed(self._done)]

    @property
    def limit(self) -> str:
        """How far back the changes go, as a sentence."""
        if self._has_forgotten:
            return f"Earlier changes are no longer kept; the server keeps {MOST_CHANGES}, if they are small enough."
        return "The server keeps the changes since its start."

    def add(self, content: bytes, decoded: Decoded, row: Row, label: str | None, name: str) -> tuple[str, list[Item]]:
        """Adds an image, whose file is written to the folder of uploads first.

        Args:
            content: the bytes of its file.
            decoded: the decoded image with its thumbnail.
            row: its vector.
            label: its label.
            name: its name at the client, which becomes a part of its metadata.

        Raises:
            Conflict: the same file was added before.
            Unwritable: the file or the index cannot be written.
        """
        ending = _ENDINGS.get(image_type(content[:16]) or "", "image")
        file = self._uploads / f"{hashlib.sha256(content).hexdigest()[:32]}.{ending}"
        with self._writing():
            if self._of_paths([str(file)]).items:
                raise Conflict("this image was added before; search for it to find it")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with replacing(file) as partial:
                    partial.write_bytes(content)
            except OSError as error:
                raise Unwritable(f"the image cannot be saved on the server ({error.strerror})") from error
            facts = file.stat()
            metadata = {"name": name, "width": decoded.width, "height": decoded.height}
            metadata |= {"bytes": facts.st_size, "mtime": facts.st_mtime}
            try:
                self._index.add([Item(str(file), label, metadata, decoded.thumbnail)], row[None])
            except BaseException:
                file.unlink(missing_ok=True)
                raise
            return self._keep(f"added {name}", None, self._of_paths([str(file)]).items, file)

    def relabel(self, ids: Sequence[int], label: str | None) -> tuple[str, list[Item]]:
        """Gives images another label. Vectors and everything else stay.

        Raises:
            NoItem: no item has one of the ids.
            Unwritable: the index cannot be written.
        """
        with self._writing():
            before = self._of_ids(ids)
            self._index.add([replace(item, label=label) for item in before.items], before.vectors)
            after = self._of_paths([item.path for item in before.items]).items
            name = "without a label" if label is None else f"as {label}"
            return self._keep(f"labelled {_images(len(after))} {name}", before, after)

    def remove(self, ids: Sequence[int]) -> tuple[str, list[Item]]:
        """Removes images from the index; their files stay.

        Raises:
            NoItem: no item has one of the ids.
            Unwritable: the index cannot be written.
        """
        with self._writing():
            before = self._of_ids(ids)
            self._index.remove(paths=[item.path for item in before.items])
            return self._keep(f"removed {_images(len(before.items))}", before, [])

    def undo(self) -> tuple[str, list[Item]]:
        """Undoes the latest change. Removed images come back with new ids.

        Raises:
            Conflict: there is nothing to undo, or what the change left was changed since by somebody else. Such a
                change is forgotten, as it can never be undone.
            Unwritable: the index cannot be written; the change can still be undone later.
        """
        with self._writing():
            if not self._done:
                raise Conflict(f"there is nothing to undo. {self.limit}")
            done = self._done[-1]
            before = done.before.items if done.before is not None else []
            paths = [item.path for item in (done.after or before)]
            now = {item.path: item for item in self._of_paths(paths).items}
            if now != {item.path: item for item in done.after}:
                self._done.pop()
                raise Conflict(
                    f"the change “{done.what}” can no longer be undone, because its images were changed since; the "
                    "collection stays as it is"
                )
            if done.before is None:
                self._index.remove(paths=paths)
            else:
                self._index.add(before, done.before.vectors)
            self._done.pop()
            if done.file is not None:
                done.file.unlink(missing_ok=True)
            return f"undone: {done.what}", self._of_paths([item.path for item in before]).items

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Holds the index of this server; the index itself keeps out other processes that write."""
        with self._is_free:
            try:
                yield
            except StoreError as error:
                raise Unwritable(
                    "another process is writing to the collection; nothing was changed, try again in a moment"
                    if "being written" in str(error)
                    else "the collection cannot be changed; nothing was changed, ask the server's administrator"
                ) from error

    def _keep(
        self, what: str, before: Stored | None, after: list[Item], file: Path | None = None
    ) -> tuple[str, list[Item]]:
        self._done.append(Done(what, before, after, file))
        while len(self._done) > 1 and (len(self._done) > MOST_CHANGES or self._kept_bytes() > MOST_BYTES):
            self._done.popleft()
            self._has_forgotten = True
        return what, after

    def _kept_bytes(self) -> int:
        return sum(done.before.size for done in self._done if done.before is not None)

    def _of_ids(self, ids: Sequence[int]) -> Stored:
        unique = list(dict.fromkeys(ids))
        return Stored(items_of(self._index, unique), self._index.vectors(unique))

    def _of_paths(self, paths: Sequence[str]) -> Stored:
        found = list(self._index.batches({"path": list(paths)}, thumbnails=True))
        items = [item for batch, _ in found for item in batch]
        none = np.zeros((0, self._index.dimensions), np.float32)
        return Stored(items, np.concatenate([none, *(vectors for _, vectors in found)]))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"
