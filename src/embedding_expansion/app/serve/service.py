"""The collection as it is served: one at a time at the index, in batches through the model."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from embedding_expansion.app.serve import models
from embedding_expansion.app.serve.batching import Batcher, Row
from embedding_expansion.app.serve.decoders import Decoders
from embedding_expansion.app.serve.landscape import Landscape
from embedding_expansion.app.serve.metrics import Metrics
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.app.serve.watching import Watch
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.collection import Answer, Collection, thresholds_of
from embedding_expansion.inference.embedder import Embedder, Square
from embedding_expansion.retrieval.index import Index, Item
from embedding_expansion.retrieval.index.where import Where

#: The first bytes of the pictures that are handed out, and what they are.
_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}


class Service:
    """Answers for the API.

    An index is used by one thread after another, so a lock serialises what asks it; a search takes milliseconds.
    The model is used by the batcher's thread alone, images are decoded by other processes, and the map has a
    connection of its own.
    """

    def __init__(self, collection: Collection, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self._collection, self._index_is_free = collection, threading.Lock()
        self._decoders = (
            Decoders(collection.embedder.preprocessing, settings) if isinstance(collection.embedder, Embedder) else None
        )
        self.batcher = Batcher[Square](
            self._embed, batch_size=settings.batch_size, places=settings.queue, observed=self.metrics.embedded
        )
        self._watch = Watch(settings.index, self._look_at_thresholds)

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Service]:
        """Opens the index and its model, until the end of the block.

        Raises:
            StoreError, RunError, InvalidInput: they cannot be opened.
        """
        with Collection.open(settings.index, device=settings.device, batch_size=settings.batch_size) as collection:
            service = cls(collection, settings)
            try:
                yield service
            finally:
                with ExitStack() as stack:
                    stack.callback(service._watch.stop)
                    stack.callback(service.batcher.stop)
                    if service._decoders is not None:
                        stack.callback(service._decoders.stop)

    @property
    def landscape(self) -> Landscape:
        """The latest."""
        return self._watch.landscape

    @property
    def takes_images(self) -> bool:
        """Whether it can be searched by an image; a collection of vectors is searched from its items."""
        return self._decoders is not None

    @property
    def decoders(self) -> Decoders:
        """The processes that decode uploads.

        Raises:
            InvalidInput: the collection takes no images.
        """
        if self._decoders is None:
            raise InvalidInput("this collection holds vectors and no images; ask for the neighbours of its items")
        return self._decoders

    @property
    def read_only(self) -> str | None:
        """Why the index may only be read, if that is so; see `Index.read_only`."""
        return self._collection.index.read_only

    def count(self) -> int:
        """Images in the index now."""
        with self._index_is_free:
            return self._collection.index.count()

    def search(self, row: Row, k: int, qe: int, alpha: float, label: str | None) -> Answer:
        """The images closest to a vector."""
        with self._index_is_free:
            return self._collection.search(row[None], k, qe=qe, alpha=alpha, where=_where(label))[0]

    def neighbours(self, id: int, k: int, qe: int, alpha: float, label: str | None) -> Answer:
        """The images closest to one of the collection."""
        with self._index_is_free:
            return self._collection.neighbours(id, k, qe=qe, alpha=alpha, where=_where(label))

    def item(self, id: int) -> Item:
        """One image, with its thumbnail.

        Raises:
            InvalidInput: there is none of this id.
        """
        with self._index_is_free:
            return self._collection.index.get(id)

    def samples(self, count: int, seed: int | None) -> list[Item]:
        """Images drawn at random from those of the map; the first ones as long as there is no map."""
        items = self.landscape.items
        if not items:
            with self._index_is_free:
                items, _ = next(self._collection.index.batches(size=count), ([], None))
        chosen = np.random.default_rng(seed).choice(len(items), min(count, len(items)), replace=False)
        return [items[place] for place in chosen]

    def about(self) -> models.About:
        """What is served."""
        with self._index_is_free:
            index = self._collection.index
            known = self._collection.thresholds.get("known or unknown")
            described = self._collection.embedder.describe()
            recall = index.recall
            return models.About(
                name=models.shown(_name(index.location)),
                version=version("embedding-expansion"),
                count=index.count(),
                dimensions=index.dimensions,
                kind=index.kind,
                reason=index.reason,
                recall=recall.value if recall else None,
                model=models.ModelFacts(
                    backbone=_told(described, "model", "backbone"),
                    data=_told(described, "training", "data"),
                    loss=_told(described, "training", "loss", "name"),
                    device=str(described["device"]),
                ),
                threshold=known.value if known else None,
                labels=[models.LabelCount(label=models.shown(text), count=n) for text, n in self.landscape.labels],
                max_bytes=self.settings.max_bytes,
                max_pixels=self.settings.max_pixels,
                formats=list(self.settings.formats),
                takes_images=self.takes_images,
            )

    def _embed(self, squares: Sequence[Square]) -> list[Row | Exception]:
        """Called by the batcher's thread."""
        return list(self._collection.embed_squares(squares))

    def _look_at_thresholds(self, index: Index) -> None:
        """Another process may have calibrated one."""
        self._collection.thresholds = thresholds_of(index)


def picture_type(content: bytes) -> str | None:
    """What a thumbnail is, by its first bytes; None for what is no picture."""
    return next((kind for start, kind in _PICTURES.items() if content.startswith(start)), None)


def _told(described: Mapping[str, Any], *keys: str) -> str | None:
    """What model.json says somewhere, if it does."""
    found: Any = described
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else str(found)


def _where(label: str | None) -> Where | None:
    return None if label is None else {"label": label}


def _name(location: str) -> str:
    """The last part of a folder; of PostgreSQL the name of the index, not where the server is."""
    if "://" in location:
        return location.partition("index=")[2].partition("&")[0] or "default"
    return Path(location).resolve().name
